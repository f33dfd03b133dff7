"""Every exception class of the three packages survives a process pool, which pickles the errors of its jobs."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
from typing import Any, Final

import grpc
import pytest

import authsvc
import interceptors
import localmesh
from authsvc.coordination.election import StepDown
from authsvc.errors import InvalidField
from authsvc.sessions.preconditions import SessionMissing
from interceptors.client.failed_call import CANCELLED, FailedCall, aio_error
from interceptors.client.renewal import NoCredential, RenewalFailure
from interceptors.error_details import error_info
from interceptors.errors import CredmeshError, Reason, Refusal, reason_of
from interceptors.tokens.access_token import UnknownKey
from interceptors.verification.verifier import KeyRevoked

_FAILURE: Final = RenewalFailure(
    Reason.RATE_LIMITED.status,
    Reason.RATE_LIMITED.message,
    error_info(Reason.RATE_LIMITED.status, Reason.RATE_LIMITED.message, Reason.RATE_LIMITED.name),
)
_VERIFIED: Final[Any] = SimpleNamespace(kid="k1", caller=SimpleNamespace(subject="alice"))
_EXAMPLES: Final[dict[type[BaseException], Callable[[], BaseException]]] = {
    FailedCall: lambda: FailedCall(_FAILURE),
    InvalidField: lambda: InvalidField("user.subject", "is empty"),
    KeyRevoked: lambda: KeyRevoked(_VERIFIED),
    NoCredential: lambda: NoCredential(_FAILURE),
    Refusal: lambda: Refusal(Reason.SCOPE_MISSING, "no scope", metadata={"scope": "orders.read"}, subject="alice"),
    SessionMissing: lambda: SessionMissing("s1", revoked=True),
    StepDown: lambda: StepDown("the lease is gone", seconds=3.0),
    UnknownKey: lambda: UnknownKey("k1"),
}
"""How to make an exception whose class takes more than a text."""


def _exception_classes() -> Iterator[type[BaseException]]:
    for package in (interceptors, authsvc, localmesh):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            for found in vars(importlib.import_module(module.name)).values():
                if isinstance(found, type) and issubclass(found, BaseException) and found.__module__ == module.name:
                    yield found


_CLASSES: Final = sorted(set(_exception_classes()), key=lambda kind: (kind.__module__, kind.__qualname__))


def pickled(error: BaseException) -> Any:
    """Returns the error as another process would get it."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - the test's own data


def test_the_search_for_exceptions_finds_every_subclass() -> None:
    def below(kind: type[CredmeshError]) -> Iterator[type[CredmeshError]]:
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    packages = ("interceptors.", "authsvc.", "localmesh.")
    assert {kind for kind in below(CredmeshError) if kind.__module__.startswith(packages)} <= set(_CLASSES)
    assert set(_EXAMPLES) <= set(_CLASSES)


@pytest.mark.parametrize("kind", _CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_exception_is_the_same_after_pickling(kind: type[BaseException]) -> None:
    error = _EXAMPLES.get(kind, lambda: kind("what happened"))()
    error.add_note("a note")
    copy = pickled(error)
    assert type(copy) is kind
    assert (str(copy), copy.args) == (str(error), error.args)
    assert vars(copy) == vars(error)


def test_what_a_caller_reads_from_an_exception_is_there_after_pickling() -> None:
    refusal = pickled(_EXAMPLES[Refusal]())
    assert refusal.reason is Reason.SCOPE_MISSING
    assert reason_of(refusal.trailing_metadata()) is Reason.SCOPE_MISSING
    field = pickled(_EXAMPLES[InvalidField]())
    assert (field.field, field.problem) == ("user.subject", "is empty")
    for failed in (FailedCall(_FAILURE), aio_error(_FAILURE)):
        copy = pickled(failed)
        assert (copy.code(), copy.details()) == (_FAILURE.code, _FAILURE.details)
        assert reason_of(copy.trailing_metadata()) is Reason.RATE_LIMITED
    assert pickled(FailedCall(CANCELLED)).cancelled()


def _fail() -> None:
    raise FailedCall(_FAILURE)


def test_a_failed_call_in_a_process_pool_reaches_the_parent() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(grpc.RpcError) as error:
        pool.submit(_fail).result(30)
    assert reason_of(error.value) is Reason.RATE_LIMITED
