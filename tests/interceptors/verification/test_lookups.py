"""Asking others for what credentials rest on: nobody's questions hold up another's, and no error lets a call in."""

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
    """A resolver that does not answer before it is told to."""

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


def made_up() -> NeedSession:
    """What a well-formed session token that somebody made up needs."""
    token = OpaqueToken.generate(OpaqueKind.SESSION)
    request = auth_pb2.ResolveSessionRequest(session_id=token.session_id, secret_sha256=token.secret_sha256)
    return NeedSession(request)


def flood(asker: LookupService) -> None:
    for _ in range(1000):
        asker.ask(made_up())


def test_a_flood_of_made_up_sessions_delays_nobody_who_shows_a_token(resolver: Blocked) -> None:
    asked: list[str | int] = []
    asker = LookupService(asked.append, resolver, asked.append)
    with pytest.raises(Refusal) as refused:
        flood(asker)
    assert refused.value.reason is Reason.RATE_LIMITED
    wait_until(lambda: resolver.asked)
    assert asker.ask(NeedKey("k")).result(5) is None
    assert asker.ask(NeedRevision(7)).result(5) is None
    assert asked == ["k", 7]
    assert not resolver.go_on.is_set()
    resolver.go_on.set()
    asker.stop()


def test_who_asks_for_the_same_shares_the_answer_and_what_is_not_there_is_not_asked_for_again(
    resolver: Blocked,
) -> None:
    asker = LookupService(lambda _kid: None, resolver)
    need = made_up()
    first, second = asker.ask(need), asker.ask(need)
    assert first is second
    resolver.go_on.set()
    first.result(5)
    wait_until(lambda: asker.ask(need) is not first)
    assert asker.ask(need).result(5) == first.result()
    assert resolver.asked == 1
    asker.stop()


def test_only_what_is_known_not_to_be_there_is_remembered() -> None:
    asked: list[str] = []
    away = True

    def fetch(kid: str) -> None:
        asked.append(kid)
        if away:
            raise Refusal(Reason.KEY_UNKNOWN, "etcd is away")

    asker = LookupService(fetch, None)
    for _ in range(2):
        future = asker.ask(NeedKey("k"))
        with pytest.raises(Refusal):
            future.result(5)
        wait_until(lambda: not asker._mesh._under_way)
    away = False
    for _ in range(3):
        asker.ask(NeedKey("k")).result(5)
        wait_until(lambda: not asker._mesh._under_way)
    assert asked == ["k", "k", "k"]
    asker.stop()


def run(asker: LookupService, flow: VerificationFlow) -> VerifiedCredential:
    return asker.run(flow)


def run_async(asker: LookupService, flow: VerificationFlow) -> VerifiedCredential:
    return asyncio.run(asker.run_async(flow))


@pytest.mark.parametrize("drive", [run, run_async])
def test_an_error_that_nobody_expected_denies_tells_nothing_and_is_logged_once(
    drive: Callable[[LookupService, VerificationFlow], VerifiedCredential], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> VerificationFlow:
        yield NeedRevision(1)
        raise RuntimeError("of the secret credential")

    asker = LookupService(lambda _kid: None, None)
    for _ in range(3):
        with pytest.raises(Refusal) as refused:
            drive(asker, broken())
        assert refused.value.reason is Reason.MESH_STALE
        assert "RuntimeError" in str(refused.value)
        assert "secret" not in str(refused.value)
    [record] = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.exc_info is not None
    asker.stop()


def test_an_error_of_whoever_is_asked_denies_too() -> None:
    def broken(_kid: str) -> None:
        raise ValueError("no")

    def flow() -> VerificationFlow:
        yield NeedKey("k")
        raise AssertionError("there was no answer")

    asker = LookupService(broken, None)
    with pytest.raises(Refusal, match="ValueError"):
        asker.run(flow())
    asker.stop()
    begun = time.monotonic()
    with pytest.raises(Refusal):
        asker.run(flow())  # after the end, too, and at once
    assert time.monotonic() - begun < 5
