"""Credentials over a real auth service: signing in, renewing, and what callers notice of it."""

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


def test_a_renewal_runs_in_the_background_and_stalls_nobody(world: World, credentials: Credentials) -> None:
    world.lifetime = 2.0
    assert credentials.token() == "token-1"
    world.gate.clear()
    world.asked.clear()
    world.lifetime = 300.0
    # While the renewal has no answer, callers get what they need at once, as often as they like.
    served = 0
    while not world.asked.is_set() or served < 1000:
        assert credentials.token(timeout=0) == "token-1"
        served = served + 1 if world.asked.is_set() else 0
    world.gate.set()
    wait_until(lambda: credentials.token() == "token-2")
    assert world.refreshes == ["refresh-1"]
    assert len(world.logins) == 1


def test_an_idle_client_asks_nothing_more(world: World, credentials: Credentials) -> None:
    world.lifetime = 0.5
    assert credentials.token() == "token-1"
    wait_until(lambda: "credmesh-renewal" not in {thread.name for thread in threading.enumerate()})
    # The use above was worth one renewal; nothing was used since.
    assert len(world.refreshes) <= 1
    asked = len(world.refreshes)
    wait_until(lambda: credentials.session_id is not None)
    assert len(world.refreshes) == asked


def test_a_lapsed_session_is_refreshed_by_the_next_call(world: World, credentials: Credentials) -> None:
    world.lifetime = 0.3
    first = credentials.token()
    wait_until(lambda: "credmesh-renewal" not in {thread.name for thread in threading.enumerate()})
    held = world.refreshes[-1:] or [first.replace("token", "refresh")]
    wait_until(lambda: credentials.token() not in (first, held[0].replace("refresh", "token")))
    assert len(world.logins) == 1


def test_a_late_call_uses_what_is_good_and_has_it_renewed(world: World, credentials: Credentials) -> None:
    world.lifetime = 0.3
    first = credentials.token()
    world.lifetime = 3.0
    wait_until(
        lambda: credentials.session_id != first.replace("token", "session"), what="the renewal that it was worth"
    )
    # Nobody uses its successor, so nothing renews it when that is due; it is still good for a while.
    wait_until(lambda: "credmesh-renewal" not in {thread.name for thread in threading.enumerate()})
    world.gate.clear()
    world.asked.clear()
    late = credentials.token(timeout=0)
    wait_until(world.asked.is_set)
    world.gate.set()
    wait_until(lambda: credentials.token() != late)


def test_the_auth_service_may_be_away_while_the_credential_is_good(world: World, credentials: Credentials) -> None:
    world.lifetime = 2.0
    assert credentials.token() == "token-1"
    world.refuse_refresh = grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: (credentials.token(timeout=0), len(world.refreshes))[1] >= 3, what="a renewal and its retries")
    assert credentials.token(timeout=0) == "token-1"
    world.refuse_refresh = None
    wait_until(lambda: credentials.token() != "token-1")
    assert len(world.logins) == 1


def test_a_lost_answer_is_asked_for_again(world: World, credentials: Credentials) -> None:
    world.lose_answers = 1
    assert credentials.token() == "token-2"


def test_a_refused_login_is_what_the_caller_gets(world: World, credentials: Credentials) -> None:
    world.refuse_login = Reason.CREDENTIAL_INVALID
    with pytest.raises(grpc.RpcError) as error:
        credentials.token()
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error.value.details() == Reason.CREDENTIAL_INVALID.message
    assert reason_in(error.value) is Reason.CREDENTIAL_INVALID


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
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
        ("WARNING", "no new credential (UNAVAILABLE): the auth service gave no credential: as the test wants it"),
        ("INFO", "the credential is renewed again"),
    ]


def test_a_wrong_password_is_tried_once_however_many_calls_are_made(world: World, credentials: Credentials) -> None:
    world.refuse_login = Reason.CREDENTIAL_INVALID
    for _ in range(100):
        with pytest.raises(grpc.RpcError):
            credentials.token()
    assert len(world.logins) <= 2


def test_nobody_waits_longer_than_they_said(world: World, credentials: Credentials) -> None:
    world.gate.clear()
    with pytest.raises(grpc.RpcError) as error:
        credentials.token(timeout=0.05)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The others' renewal goes on.
    world.gate.set()
    assert credentials.token() == "token-1"
    assert len(world.logins) == 1


def test_an_auth_service_that_is_not_there_is_named_as_the_cause() -> None:
    with grpc.insecure_channel(f"127.0.0.1:{free_port()}") as auth, Credentials(ClientSecret("c", "s"), auth) as nobody:
        with pytest.raises(grpc.RpcError) as error:
            nobody.token(timeout=10)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert str(error.value.details()).startswith("the auth service gave no credential: ")


def test_a_session_that_was_ended_is_begun_anew_by_a_password(world: World, credentials: Credentials) -> None:
    world.lifetime = 0.3
    credentials.token()
    world.refuse_refresh = Reason.CREDENTIAL_REVOKED
    wait_until(lambda: credentials.token() and len(world.logins) == 2)


def test_a_session_that_was_ended_stays_ended_for_a_refresh_token(world: World, auth: grpc.Channel) -> None:
    world.lifetime = 0.3
    with Credentials(PasswordLogin("alice", "alice-password"), auth) as alice:
        alice.token()
    with Credentials(RefreshTokenLogin("refresh-1"), auth) as carried_on:
        carried_on.token()
        world.refuse_refresh = Reason.CREDENTIAL_REVOKED

        def reason() -> Reason | None:
            try:
                carried_on.token()
            except grpc.RpcError as error:
                return reason_in(error)
            return None

        wait_until(lambda: reason() is Reason.CREDENTIAL_REVOKED)
        asked = len(world.refreshes)
        assert reason() is Reason.CREDENTIAL_REVOKED
        assert len(world.refreshes) == asked


def test_every_new_refresh_token_is_handed_out_before_it_is_used(world: World, auth: grpc.Channel) -> None:
    kept: list[auth_pb2.Credentials] = []
    world.lifetime = 0.3
    with Credentials(PasswordLogin("alice", "alice-password"), auth, on_rotate=kept.append) as alice:
        assert alice.token() == kept[-1].access_token
        wait_until(lambda: alice.token() == "token-3")
        assert [one.refresh_token for one in kept][:3] == ["refresh-1", "refresh-2", "refresh-3"]


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


def test_an_opaque_session_is_asked_for_and_sent(world: World, auth: grpc.Channel) -> None:
    with Credentials(PasswordLogin("alice", "alice-password", opaque=True), auth) as alice:
        assert alice.token() == "token-1"
    assert world.logins[0].kind == auth_pb2.CREDENTIAL_KIND_SESSION


def test_closing_gives_up_a_renewal_under_way_and_ends_the_thread(world: World, auth: grpc.Channel) -> None:
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


def test_a_fixed_token_needs_no_auth_service(world: World) -> None:
    with grpc.insecure_channel(world.target) as plain:
        channel = grpc.intercept_channel(plain, *Credentials(FixedToken("mine")).interceptors())
        assert methods(channel)[0](b"hello") == b"mine: hello"


@pytest.mark.parametrize("source", [PasswordLogin("a", "b"), ClientSecret("a", "b"), RefreshTokenLogin("a")])
def test_a_source_that_signs_in_says_that_it_needs_a_channel(
    source: PasswordLogin | ClientSecret | RefreshTokenLogin,
) -> None:
    with pytest.raises(ValueError, match=f"{type(source).__name__} needs a channel to the auth service"):
        Credentials(source)


def test_propagation_outside_a_handler_says_where_it_works(world: World) -> None:
    with grpc.insecure_channel(world.target) as plain:
        channel = grpc.intercept_channel(plain, *Credentials(CallerToken()).interceptors())
        with pytest.raises(LookupError, match="in the handler of a method"):
            methods(channel)[0](b"hello")
        with pytest.raises(LookupError, match="in the handler of a method"):
            methods(channel)[0].future(b"hello").result(5)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: "credmesh-renewal" not in {thread.name for thread in threading.enumerate()})
