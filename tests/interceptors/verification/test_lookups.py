"""Lookups: a flood of one kind does not delay another, and no error admits a call."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from credmesh.auth.v1 import auth_pb2
from interceptors import Reason, Refusal
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from interceptors.verification.lookups import LookupService
from interceptors.verification.verifier import NeedKey, NeedRevision, NeedSession, VerificationFlow, VerifiedCredential
from tests.support.waiting import wait_until


class Blocked:
    """A resolver that answers only after `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked = 0

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """See SessionResolver."""
        self.asked += 1
        self.go_on.wait(30)
        return auth_pb2.ResolveSessionResponse(refusal=Reason.CREDENTIAL_INVALID.name)


@pytest.fixture
def resolver() -> Iterator[Blocked]:
    one = Blocked()
    yield one
    one.go_on.set()


def invented() -> NeedSession:
    """The need of a well-formed session token that was invented."""
    token = OpaqueToken.generate(OpaqueKind.SESSION)
    request = auth_pb2.ResolveSessionRequest(session_id=token.session_id, secret_sha256=token.secret_sha256)
    return NeedSession(request)


def flood(lookups: LookupService) -> None:
    for _ in range(1000):
        lookups.look_up(invented())


def test_a_flood_of_invented_sessions_does_not_delay_tokens(resolver: Blocked) -> None:
    asked: list[str | int] = []
    lookups = LookupService(asked.append, resolver, asked.append)
    with pytest.raises(Refusal) as refused:
        flood(lookups)
    assert refused.value.reason is Reason.RATE_LIMITED
    wait_until(lambda: resolver.asked)
    assert lookups.look_up(NeedKey("k")).result(5) is None
    assert lookups.look_up(NeedRevision(7)).result(5) is None
    assert asked == ["k", 7]
    assert not resolver.go_on.is_set()
    resolver.go_on.set()
    lookups.stop()


def test_equal_lookups_are_shared_and_an_absence_is_remembered(
    resolver: Blocked,
) -> None:
    lookups = LookupService(lambda _kid: None, resolver)
    need = invented()
    first, second = lookups.look_up(need), lookups.look_up(need)
    assert first is second
    resolver.go_on.set()
    first.result(5)
    wait_until(lambda: lookups.look_up(need) is not first)
    assert lookups.look_up(need).result(5) == first.result()
    assert resolver.asked == 1
    lookups.stop()


def test_a_failed_lookup_is_not_remembered() -> None:
    asked: list[str] = []
    unavailable = True

    def fetch(kid: str) -> None:
        asked.append(kid)
        if unavailable:
            raise Refusal(Reason.KEY_UNKNOWN, "etcd does not answer")

    lookups = LookupService(fetch, None)
    for _ in range(2):
        future = lookups.look_up(NeedKey("k"))
        with pytest.raises(Refusal):
            future.result(5)
        wait_until(lambda: not lookups._etcd_lookups._pending)
    unavailable = False
    for _ in range(3):
        lookups.look_up(NeedKey("k")).result(5)
        wait_until(lambda: not lookups._etcd_lookups._pending)
    assert asked == ["k", "k", "k"]
    lookups.stop()


def run(lookups: LookupService, flow: VerificationFlow) -> VerifiedCredential:
    return lookups.run(flow)


def run_async(lookups: LookupService, flow: VerificationFlow) -> VerifiedCredential:
    return asyncio.run(lookups.run_async(flow))


@pytest.mark.parametrize("drive", [run, run_async])
def test_an_unexpected_error_refuses_quotes_nothing_and_is_logged_once(
    drive: Callable[[LookupService, VerificationFlow], VerifiedCredential], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> VerificationFlow:
        yield NeedRevision(1)
        raise RuntimeError("of the secret credential")

    lookups = LookupService(lambda _kid: None, None)
    for _ in range(3):
        with pytest.raises(Refusal) as refused:
            drive(lookups, broken())
        assert refused.value.reason is Reason.MESH_STALE
        assert "RuntimeError" in str(refused.value)
        assert "secret" not in str(refused.value)
    [record] = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.exc_info is not None
    lookups.stop()


def test_an_unexpected_error_of_a_lookup_refuses() -> None:
    def broken(_kid: str) -> None:
        raise ValueError("no")

    def flow() -> VerificationFlow:
        yield NeedKey("k")
        raise AssertionError("there was no answer")

    lookups = LookupService(broken, None)
    with pytest.raises(Refusal, match="ValueError"):
        lookups.run(flow())
    lookups.stop()
    begun = time.monotonic()
    with pytest.raises(Refusal):
        lookups.run(flow())  # after the threads have ended, it is refused at once
    assert time.monotonic() - begun < 5
