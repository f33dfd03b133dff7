"""Credentials with a real gRPC server as auth service: signing in, renewing, and the effects on calls."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from credmesh.auth.v1 import auth_pb2
from interceptors.client import CallerToken, ClientSecret, Credentials, FixedToken, PasswordLogin, RefreshTokenLogin
from interceptors.errors import Reason
from tests.interceptors.client.auth_server import World, methods, reason_in
from tests.interceptors.client.conftest import Connect
from tests.support.waiting import free_port, wait_until


def test_the_first_use_signs_in_and_the_next_ones_do_not(world: World, credentials: Credentials) -> None:
    assert world.logins == []
    assert credentials.token() == "token-1"
    assert credentials.token() == "token-1"
    assert len(world.logins) == 1
    assert credentials.subject == "alice"
    assert credentials.session_id == "session-1"


def test_a_thousand_callers_sign_in_once(world: World, credentials: Credentials) -> None:
    world.gate.clear()
    with ThreadPoolExecutor(200) as pool:
        tokens = [pool.submit(credentials.token) for _ in range(1000)]
        wait_until(world.asked.is_set)
        world.gate.set()
        assert {token.result(10) for token in tokens} == {"token-1"}
    assert len(world.logins) == 1


def test_a_renewal_runs_in_the_background_and_delays_no_call(world: World, credentials: Credentials) -> None:
    world.lifetime = 2.0
    assert credentials.token() == "token-1"
    world.gate.clear()
    world.asked.clear()
    world.lifetime = 300.0
    # While the renewal waits for its answer, every call gets the held credential at once.
    served = 0
    while not world.asked.is_set() or served < 1000:
        assert credentials.token(timeout=0) == "token-1"
        served = served + 1 if world.asked.is_set() else 0
    world.gate.set()
    wait_until(lambda: credentials.token() == "token-2")
    assert world.refreshes == ["refresh-1"]
    assert len(world.logins) == 1


def test_an_idle_client_makes_no_further_requests(world: World, credentials: Credentials) -> None:
    world.lifetime = 0.5
    assert credentials.token() == "token-1"
    wait_until(lambda: "credmesh-renewal" not in {thread.name for thread in threading.enumerate()})
    # The one use above causes at most one renewal.
    assert len(world.refreshes) <= 1
    refreshes = len(world.refreshes)
    wait_until(lambda: credentials.session_id is not None)
    assert len(world.refreshes) == refreshes


def test_a_lapsed_session_is_refreshed_by_the_next_call(world: World, credentials: Credentials) -> None:
    world.lifetime = 0.3
    first = credentials.token()
    wait_until(lambda: "credmesh-renewal" not in {thread.name for thread in threading.enumerate()})
    held = world.refreshes[-1:] or [first.replace("token", "refresh")]
    wait_until(lambda: credentials.token() not in (first, held[0].replace("refresh", "token")))
    assert len(world.logins) == 1


def test_a_late_call_uses_a_good_credential_and_starts_its_renewal(world: World, credentials: Credentials) -> None:
    world.lifetime = 0.3
    first = credentials.token()
    world.lifetime = 3.0
    wait_until(
        lambda: credentials.session_id != first.replace("token", "session"), what="the renewal that the use caused"
    )
    # The successor is unused, so it is not renewed when that is due. It stays good for a while.
    wait_until(lambda: "credmesh-renewal" not in {thread.name for thread in threading.enumerate()})
    world.gate.clear()
    world.asked.clear()
    late = credentials.token(timeout=0)
    wait_until(world.asked.is_set)
    world.gate.set()
    wait_until(lambda: credentials.token() != late)


def test_an_outage_of_the_auth_service_harms_no_good_credential(world: World, credentials: Credentials) -> None:
    world.lifetime = 2.0
    assert credentials.token() == "token-1"
    world.refuse_refresh = grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: (credentials.token(timeout=0), len(world.refreshes))[1] >= 3, what="a renewal and its retries")
    assert credentials.token(timeout=0) == "token-1"
    world.refuse_refresh = None
    wait_until(lambda: credentials.token() != "token-1")
    assert len(world.logins) == 1


def test_a_login_is_repeated_after_a_lost_response(world: World, credentials: Credentials) -> None:
    world.lose_responses = 1
    assert credentials.token() == "token-2"


def test_the_refusal_of_a_login_is_the_callers_error(world: World, credentials: Credentials) -> None:
    world.refuse_login = Reason.CREDENTIAL_INVALID
    with pytest.raises(grpc.RpcError) as error:
        credentials.token()
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error.value.details() == Reason.CREDENTIAL_INVALID.message
    assert reason_in(error.value) is Reason.CREDENTIAL_INVALID


def test_an_outage_is_logged_at_its_start_and_at_its_end(
    world: World, credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    world.refuse_login = grpc.StatusCode.UNAVAILABLE
    with caplog.at_level(logging.INFO, "credmesh.client"):
        for _ in range(3):
            with pytest.raises(grpc.RpcError):
                credentials.token()
        world.refuse_login = None
        credentials.token()
        wait_until(lambda: len(caplog.records) >= 2)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "no new credential (UNAVAILABLE): the auth service gave no credential: the test wants it to fail"),
        ("INFO", "the credential is renewed again"),
    ]


def test_a_wrong_password_is_tried_once_however_many_calls_are_made(world: World, credentials: Credentials) -> None:
    world.refuse_login = Reason.CREDENTIAL_INVALID
    for _ in range(100):
        with pytest.raises(grpc.RpcError):
            credentials.token()
    assert len(world.logins) <= 2


def test_a_caller_waits_no_longer_than_its_timeout(world: World, credentials: Credentials) -> None:
    world.gate.clear()
    with pytest.raises(grpc.RpcError) as error:
        credentials.token(timeout=0.05)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The renewal goes on for later callers.
    world.gate.set()
    assert credentials.token() == "token-1"
    assert len(world.logins) == 1


def test_an_unreachable_auth_service_is_named_as_the_cause() -> None:
    with (
        grpc.insecure_channel(f"127.0.0.1:{free_port()}") as auth,
        Credentials(ClientSecret("c", "s"), auth) as services,
    ):
        with pytest.raises(grpc.RpcError) as error:
            services.token(timeout=10)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert str(error.value.details()).startswith("the auth service gave no credential: ")


def test_a_password_signs_in_again_when_its_session_was_ended(world: World, credentials: Credentials) -> None:
    world.lifetime = 0.3
    credentials.token()
    world.refuse_refresh = Reason.CREDENTIAL_REVOKED
    wait_until(lambda: credentials.token() and len(world.logins) == 2)


def test_a_refresh_token_cannot_follow_when_its_session_was_ended(world: World, auth: grpc.Channel) -> None:
    world.lifetime = 0.3
    with Credentials(PasswordLogin("alice", "alice-password"), auth) as alice:
        alice.token()
    with Credentials(RefreshTokenLogin("refresh-1"), auth) as resumed:
        resumed.token()
        world.refuse_refresh = Reason.CREDENTIAL_REVOKED

        def reason() -> Reason | None:
            try:
                resumed.token()
            except grpc.RpcError as error:
                return reason_in(error)
            return None

        wait_until(lambda: reason() is Reason.CREDENTIAL_REVOKED)
        refreshes = len(world.refreshes)
        assert reason() is Reason.CREDENTIAL_REVOKED
        assert len(world.refreshes) == refreshes


def test_on_rotate_gets_every_refresh_token_before_its_use(world: World, auth: grpc.Channel) -> None:
    kept: list[auth_pb2.Credentials] = []
    world.lifetime = 0.3
    with Credentials(PasswordLogin("alice", "alice-password"), auth, on_rotate=kept.append) as alice:
        assert alice.token() == kept[-1].access_token
        wait_until(lambda: alice.token() == "token-3")
        assert [rotated.refresh_token for rotated in kept][:3] == ["refresh-1", "refresh-2", "refresh-3"]


def test_a_failing_on_rotate_is_logged_and_costs_no_session(
    world: World, auth: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: auth_pb2.Credentials) -> None:
        raise OSError("no space left on device")

    with (
        caplog.at_level(logging.ERROR, "credmesh.client"),
        Credentials(PasswordLogin("alice", "alice-password"), auth, on_rotate=fail) as alice,
    ):
        assert alice.token() == "token-1"
    assert "on_rotate failed" in caplog.text
    assert "no space left on device" in caplog.text
    assert "refresh-1" not in caplog.text


def test_an_opaque_session_is_requested_and_used(world: World, auth: grpc.Channel) -> None:
    with Credentials(PasswordLogin("alice", "alice-password", opaque=True), auth) as alice:
        assert alice.token() == "token-1"
    assert world.logins[0].kind == auth_pb2.CREDENTIAL_KIND_SESSION


def test_closing_cancels_a_renewal_under_way_and_ends_the_thread(world: World, auth: grpc.Channel) -> None:
    world.gate.clear()
    alice = Credentials(PasswordLogin("alice", "alice-password"), auth)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(alice.token)
        wait_until(world.asked.is_set)
        before = time.monotonic()
        alice.close()
        assert time.monotonic() - before < 3
        error = waiting.exception(5)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.CANCELLED
    assert "closed" in str(error.details())
    assert "credmesh-renewal" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(grpc.RpcError, match="closed"):
        alice.token()


def test_a_fixed_token_needs_no_auth_service(connect: Connect) -> None:
    assert methods(connect(Credentials(FixedToken("mine"))))[0](b"hello") == b"mine: hello"


@pytest.mark.parametrize("source", [PasswordLogin("a", "b"), ClientSecret("a", "b"), RefreshTokenLogin("a")])
def test_a_source_that_signs_in_needs_a_channel_and_says_so(
    source: PasswordLogin | ClientSecret | RefreshTokenLogin,
) -> None:
    with pytest.raises(ValueError, match=f"{type(source).__name__} needs a channel to the auth service"):
        Credentials(source)


def test_propagation_outside_a_handler_says_where_it_works(connect: Connect) -> None:
    unary = methods(connect(Credentials(CallerToken())))[0]
    with pytest.raises(LookupError, match="in the handler of a method"):
        unary(b"hello")
    with pytest.raises(LookupError, match="in the handler of a method"):
        unary.future(b"hello").result(5)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: "credmesh-renewal" not in {thread.name for thread in threading.enumerate()})
