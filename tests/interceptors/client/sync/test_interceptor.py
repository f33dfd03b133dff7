"""Sync calls of all four kinds with credentials attached: what reaches the server, and what the caller gets."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from interceptors.client import Credentials, FixedToken, PasswordLogin
from interceptors.errors import Reason
from tests.interceptors.client.auth_server import World, methods, reason_in
from tests.interceptors.client.conftest import Connect
from tests.support.waiting import free_port, wait_until

RENEWABLE = [Reason.CREDENTIAL_EXPIRED, Reason.KEY_UNKNOWN, Reason.CREDENTIAL_REVOKED]
FINAL = [Reason.CREDENTIAL_INVALID, Reason.SCOPE_MISSING, Reason.MESH_STALE]


def by_name(value: Any) -> str:
    return str(value.name)


@pytest.fixture
def unary(orders: grpc.Channel) -> Any:
    return methods(orders)[0]


@pytest.fixture
def stream(orders: grpc.Channel) -> Any:
    return methods(orders)[1]


def call_each_kind(channel: Any, **options: Any) -> Iterator[Any]:
    """Yields a function per kind and style of call. It makes the call and returns all its responses."""
    unary, server_stream, client_stream, bidi = methods(channel)
    yield lambda: [unary(b"x", **options)]
    yield lambda: [unary.with_call(b"x", **options)[0]]
    yield lambda: [unary.future(b"x", **options).result(10)]
    yield lambda: list(server_stream(b"x", **options))
    yield lambda: [client_stream(iter([b"x", b"y"]), **options)]
    yield lambda: [client_stream.with_call(iter([b"x"]), **options)[0]]
    yield lambda: [client_stream.future(iter([b"x"]), **options).result(10)]
    yield lambda: list(bidi(iter([b"x", b"y"]), **options))


def test_every_kind_and_style_of_call_carries_the_credential_once(world: World, orders: grpc.Channel) -> None:
    answers = [call() for call in call_each_kind(orders)]
    assert answers == [
        [b"token-1: x"],
        [b"token-1: x"],
        [b"token-1: x"],
        [b"token-1: x", b"token-1: end"],
        [b"token-1: x y"],
        [b"token-1: x"],
        [b"token-1: x"],
        [b"token-1: x", b"token-1: y"],
    ]
    assert len(world.calls) == 8


def test_the_callers_own_metadata_is_sent_as_well(world: World, orders: grpc.Channel) -> None:
    for call in call_each_kind(orders, metadata=[("x-mine", "1"), ("x-bin", b"\x00")]):
        call()
        _, metadata, _ = world.calls[-1]
        assert ("x-mine", "1") in metadata
        assert ("x-bin", b"\x00") in metadata


@pytest.mark.parametrize("key", ["authorization", "Authorization"])
def test_a_second_authorization_entry_is_a_clear_error(world: World, orders: grpc.Channel, key: str) -> None:
    for call in call_each_kind(orders, metadata=[(key, "Bearer other")]):
        with pytest.raises(ValueError, match="already holds an 'authorization' entry"):
            call()
    assert world.calls == []


class Recorder(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Another interceptor, between the credentials and the wire. It records the details and replaces a part of them."""

    def __init__(self) -> None:
        self.details: list[Any] = []

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.details.append(client_call_details)
        return continuation(client_call_details._replace(credentials=None), request)

    intercept_unary_stream: Any = intercept_unary_unary
    intercept_stream_unary: Any = intercept_unary_unary
    intercept_stream_stream: Any = intercept_unary_unary


def test_every_option_of_a_call_passes_through(
    connect: Connect, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    plain = grpc.insecure_channel
    monkeypatch.setattr(grpc, "insecure_channel", lambda *options: grpc.intercept_channel(plain(*options), recorder))
    mine = grpc.access_token_call_credentials("other")
    for call in call_each_kind(
        connect(credentials), timeout=7.5, credentials=mine, wait_for_ready=True, compression=grpc.Compression.Gzip
    ):
        call()
        details = recorder.details[-1]
        # The login of the first call counts towards its timeout.
        assert 2.5 < details.timeout <= 7.5
        assert details.credentials is mine
        assert details.wait_for_ready is True
        assert details.compression is grpc.Compression.Gzip


def test_a_call_may_wait_until_the_server_is_ready(world: World, credentials: Credentials) -> None:
    later = World()
    port = free_port()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as plain:
        unary = methods(grpc.intercept_channel(plain, *credentials.interceptors()))[0]
        future = unary.future(b"x", wait_for_ready=True, timeout=20)
        later.start(port)
        try:
            assert future.result(20) == b"token-1: x"
        finally:
            later.stop()


# Retrying


@pytest.mark.parametrize("reason", RENEWABLE, ids=by_name)
def test_a_call_with_a_refused_credential_is_repeated_with_a_fresh_one(
    world: World, orders: grpc.Channel, reason: Reason
) -> None:
    unary, server_stream, *_ = methods(orders)
    attempts: list[Callable[[], Any]] = [
        lambda: unary(b"x"),
        lambda: unary.with_call(b"x")[0],
        lambda: unary.future(b"x").result(10),
        lambda: next(server_stream(b"x")),
    ]
    for number, attempt in enumerate(attempts, start=1):
        world.refuse(f"token-{number}", reason)
        assert attempt() == f"token-{number + 1}: x".encode()
        assert len(world.calls) == 2 * number
    assert len(world.logins) == 1


def test_a_retried_call_has_its_metadata_even_from_an_iterator(world: World, unary: Any) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_EXPIRED)
    assert unary(b"x", metadata=iter([("x-mine", "1")])) == b"token-2: x"
    assert all(("x-mine", "1") in metadata for _, metadata, _ in world.calls[1:])


def test_a_call_with_impossible_metadata_does_not_sign_in(world: World, unary: Any) -> None:
    with pytest.raises(ValueError, match="authorization"):
        unary(b"x", metadata=[("authorization", "Bearer other")])
    assert world.logins == []


@pytest.mark.parametrize("reason", RENEWABLE, ids=by_name)
def test_a_call_is_never_made_a_third_time(world: World, orders: grpc.Channel, reason: Reason) -> None:
    world.refuse_everything = reason
    unary, server_stream, *_ = methods(orders)
    attempts: list[Callable[[], Any]] = [
        lambda: unary(b"x"),
        lambda: unary.future(b"x").result(10),
        lambda: list(server_stream(b"x")),
    ]
    for number, attempt in enumerate(attempts, start=1):
        with pytest.raises(grpc.RpcError) as error:
            attempt()
        assert reason_in(error.value) is reason
        assert len(world.calls) == 2 * number


@pytest.mark.parametrize("reason", FINAL, ids=by_name)
def test_a_refusal_that_no_fresh_credential_removes_is_passed_on(
    world: World, orders: grpc.Channel, reason: Reason
) -> None:
    world.refuse_everything = reason
    for number, call in enumerate(call_each_kind(orders), start=1):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code() is reason.status
        assert reason_in(error.value) is reason
        assert len(world.calls) == number
    assert world.refreshes == []


@pytest.mark.parametrize("reason", RENEWABLE, ids=by_name)
def test_a_stream_of_requests_is_never_repeated(world: World, orders: grpc.Channel, reason: Reason) -> None:
    _, _, client_stream, bidi = methods(orders)
    world.refuse_everything = reason
    calls: list[Callable[[], Any]] = [
        lambda: client_stream(iter([b"x"])),
        lambda: client_stream.future(iter([b"x"])).result(10),
        lambda: list(bidi(iter([b"x"]))),
    ]
    for number, call in enumerate(calls, start=1):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert reason_in(error.value) is reason
        assert len(world.calls) == number


def test_a_stream_is_never_repeated_after_a_response(world: World, stream: Any) -> None:
    call = stream(b"then refuse")
    assert next(call) == b"token-1: then refuse"
    with pytest.raises(grpc.RpcError) as error:
        next(call)
    assert reason_in(error.value) is Reason.CREDENTIAL_REVOKED
    assert call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(world.calls) == 1


def test_a_fixed_token_is_not_retried(world: World, connect: Connect) -> None:
    world.refuse("mine", Reason.CREDENTIAL_EXPIRED)
    unary, stream, *_ = methods(connect(Credentials(FixedToken("mine"))))
    calls: list[Callable[[], Any]] = [
        lambda: unary(b"x"),
        lambda: unary.future(b"x").result(10),
        lambda: next(stream(b"x")),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert reason_in(error.value) is Reason.CREDENTIAL_EXPIRED
    assert len(world.calls) == 3


def test_a_refused_call_ends_with_the_auth_services_refusal(world: World, orders: grpc.Channel) -> None:
    unary, server_stream, *_ = methods(orders)
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    world.refuse_refresh = Reason.CREDENTIAL_REVOKED
    world.refuse_login = Reason.RATE_LIMITED
    attempts: list[Callable[[], Any]] = [
        lambda: unary(b"x"),
        lambda: unary.with_call(b"x"),
        lambda: unary.future(b"x").result(10),
        lambda: next(server_stream(b"x")),
    ]
    for attempt in attempts:
        with pytest.raises(grpc.RpcError) as error:
            attempt()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.value.details() == Reason.RATE_LIMITED.message
        assert reason_in(error.value) is Reason.RATE_LIMITED


def test_a_refused_login_fails_calls_of_every_kind_alike(world: World, orders: grpc.Channel) -> None:
    world.refuse_login = Reason.CREDENTIAL_INVALID
    for call in call_each_kind(orders):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error.value.details() == Reason.CREDENTIAL_INVALID.message
        assert reason_in(error.value) is Reason.CREDENTIAL_INVALID
    unary, server_stream, client_stream, _ = methods(orders)
    for made in (unary.future(b"x"), client_stream.future(iter([b"x"])), server_stream(b"x")):
        assert made.code() is grpc.StatusCode.UNAUTHENTICATED
        assert made.done()
        assert not made.is_active()
        assert made.exception() is made
        assert made.initial_metadata() == ()
        assert not made.cancel()
    assert world.calls == []


def test_a_server_that_refuses_every_call_causes_few_refreshes(world: World, unary: Any) -> None:
    world.refuse_everything = Reason.CREDENTIAL_REVOKED
    for _ in range(200):
        with pytest.raises(grpc.RpcError) as error:
            unary(b"x")
        assert reason_in(error.value) is Reason.CREDENTIAL_REVOKED
    assert len(world.refreshes) < 40


def test_a_revocation_costs_a_thousand_callers_one_refresh_and_no_failure(world: World, unary: Any) -> None:
    assert unary(b"x") == b"token-1: x"
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    with ThreadPoolExecutor(50) as pool:
        answers = set(pool.map(unary, [b"x"] * 1000))
    assert answers == {b"token-2: x"}
    assert world.refreshes == ["refresh-1"]


def test_calls_go_on_across_refreshes(world: World, unary: Any) -> None:
    """The server refuses a token from the moment of its expiry, so a late renewal would fail calls."""
    world.lifetime = 2.0
    done = threading.Event()

    def call_on() -> int:
        calls = 0
        while not done.is_set():
            assert unary(b"x", timeout=5).startswith(b"token-")
            calls += 1
        return calls

    with ThreadPoolExecutor(16) as pool:
        callers = [pool.submit(call_on) for _ in range(16)]
        try:
            wait_until(lambda: len(world.refreshes) >= 2 or any(caller.done() for caller in callers))
        finally:
            done.set()
        assert sum(caller.result(10) for caller in callers) > 100
    # No call was refused, so none was retried: each renewal came before the expiry.
    assert len(world.logins) == 1
    assert len(world.refreshes) == len(set(world.refreshes))


# Futures


def test_a_future_that_was_retried_looks_like_any_other(world: World, unary: Any) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    called: list[Any] = []
    future = unary.future(b"x", timeout=10)
    future.add_done_callback(called.append)
    assert future.result() == b"token-2: x"
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert future.exception() is None
    assert future.traceback() is None
    assert future.code() is grpc.StatusCode.OK
    assert dict(future.initial_metadata()) == {"x-handler": "token-2"}
    assert dict(future.trailing_metadata()) == {"x-trailing": "token-2"}
    assert 0 <= future.time_remaining() <= 10
    wait_until(lambda: called)
    assert called == [future]
    future.add_done_callback(called.append)
    assert called == [future, future]
    assert future.add_callback(called.clear) is False


def test_with_call_returns_the_call_of_the_second_attempt(world: World, unary: Any) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_EXPIRED)
    answer, call = unary.with_call(b"x")
    assert answer == b"token-2: x"
    assert call.code() is grpc.StatusCode.OK
    assert dict(call.trailing_metadata()) == {"x-trailing": "token-2"}


def test_a_future_does_not_block_its_caller_during_a_renewal(world: World, unary: Any) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    world.gate.clear()
    world.asked.clear()
    future = unary.future(b"x")
    wait_until(world.asked.is_set)
    assert future.running()
    assert future.is_active()
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.01)
    world.gate.set()
    assert future.result(10) == b"token-2: x"


def test_a_slow_retried_call_delays_no_other(world: World, unary: Any) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    world.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(unary, b"hold")
        wait_until(lambda: len(world.calls) == 2)
        quick = pool.submit(unary, b"x")
        wait_until(lambda: len(world.calls) == 3)
        world.gate.set()
        wait_until(world.inside.is_set)
        assert quick.result(10) == b"token-2: x"
        world.go_on.set()
        assert slow.result(10) == b"token-2: hold"


def test_a_done_callback_is_called_even_if_the_future_is_dropped(world: World, unary: Any) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    world.gate.clear()
    world.asked.clear()
    results: list[bytes] = []
    unary.future(b"hold").add_done_callback(lambda future: results.append(future.result()))
    wait_until(world.asked.is_set)
    gc.collect()
    world.gate.set()
    wait_until(world.inside.is_set)
    gc.collect()
    world.go_on.set()
    wait_until(lambda: results)
    assert results == [b"token-2: hold"]


def test_a_future_can_be_cancelled_while_it_runs(world: World, unary: Any) -> None:
    future = unary.future(b"hold")
    wait_until(world.inside.is_set)
    assert future.cancel()
    assert_cancelled(future)
    wait_until(world.left.is_set)


def test_a_future_can_be_cancelled_while_its_credential_is_renewed(
    world: World, credentials: Credentials, unary: Any
) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    world.gate.clear()
    world.asked.clear()
    future = unary.future(b"x")
    wait_until(world.asked.is_set)
    assert future.cancel()
    assert_cancelled(future)
    world.gate.set()
    wait_until(lambda: credentials.token() == "token-2")
    assert len(world.calls) == 2


def assert_cancelled(future: Any) -> None:
    wait_until(future.done)
    assert future.cancelled()
    assert future.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.FutureCancelledError):
        future.result(10)
    with pytest.raises(grpc.FutureCancelledError):
        future.exception(10)


def test_a_failed_future_is_its_own_error(world: World, unary: Any) -> None:
    future = unary.future(b"fail")
    error = future.exception(10)
    assert isinstance(error, grpc.RpcError)
    assert future.code() is grpc.StatusCode.NOT_FOUND
    assert future.details() == "no such thing"
    with pytest.raises(grpc.RpcError):
        future.result()


# Streams


def test_a_retried_stream_looks_like_any_other(world: World, unary: Any, stream: Any) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_EXPIRED)
    called = threading.Event()
    call = stream(b"x", timeout=10)
    assert call.add_callback(called.set)
    assert list(call) == [b"token-2: x", b"token-2: end"]
    assert call.code() is grpc.StatusCode.OK
    assert dict(call.initial_metadata()) == {"x-handler": "token-2"}
    assert called.wait(10)
    assert not call.is_active()
    assert call.add_callback(called.set) is False


def test_a_refused_stream_is_retried_even_without_a_reader(world: World, unary: Any, stream: Any) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_EXPIRED)
    call = stream(b"x")
    wait_until(lambda: len(world.calls) == 3)
    assert list(call) == [b"token-2: x", b"token-2: end"]


def test_an_open_stream_has_initial_metadata_before_its_first_response(world: World, stream: Any) -> None:
    call = stream(b"hold")
    assert dict(call.initial_metadata()) == {"x-handler": "token-1"}
    assert call.is_active()
    call.cancel()


def test_a_stream_can_be_cancelled_while_it_is_read(world: World, stream: Any) -> None:
    call = stream(b"then hold")
    assert next(call) == b"token-1: then hold"
    wait_until(world.inside.is_set)
    call.cancel()
    with pytest.raises(grpc.RpcError) as error:
        next(call)
    assert error.value.code() is grpc.StatusCode.CANCELLED
    assert call.code() is grpc.StatusCode.CANCELLED
    wait_until(world.left.is_set)


def test_a_stream_can_be_cancelled_before_its_first_response(world: World, stream: Any) -> None:
    call = stream(b"hold")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(next, call)
        wait_until(world.inside.is_set)
        call.cancel()
        error = reading.exception(10)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.CANCELLED
    wait_until(world.left.is_set)


def test_a_stream_can_be_cancelled_while_its_credential_is_renewed(world: World, unary: Any, stream: Any) -> None:
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    world.gate.clear()
    world.asked.clear()
    call = stream(b"x")
    wait_until(world.asked.is_set)
    call.cancel()
    with pytest.raises(grpc.RpcError) as error:
        next(call)
    assert error.value.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("request_", [b"hold", b"then hold"])
@pytest.mark.parametrize("retried", [False, True])
def test_an_abandoned_stream_is_cancelled(
    world: World, unary: Any, stream: Any, request_: bytes, retried: bool
) -> None:
    if retried:
        unary(b"x")
        world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    call = stream(request_)
    if request_ == b"then hold":
        next(call)
    wait_until(world.inside.is_set)
    del call
    gc.collect()
    wait_until(world.left.is_set)


def test_streams_of_requests_are_sent_as_they_come(world: World, orders: grpc.Channel) -> None:
    sent = threading.Semaphore(0)

    def requests() -> Iterator[bytes]:
        for number in range(3):
            sent.acquire(timeout=10)
            yield str(number).encode()

    call = methods(orders)[3](requests())
    for number in range(3):
        sent.release()
        assert next(call) == f"token-1: {number}".encode()


# Deadlines


def test_waiting_for_a_credential_counts_towards_the_timeout(world: World, orders: grpc.Channel) -> None:
    world.gate.clear()
    for call in call_each_kind(orders, timeout=0.1):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert world.calls == []


def test_a_call_has_less_time_left_after_its_login(world: World, unary: Any) -> None:
    world.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(unary, b"x", timeout=20)
        wait_until(world.asked.is_set)
        with pytest.raises(grpc.RpcError):
            unary(b"x", timeout=0.5)  # half a second passes
        world.gate.set()
        call.result(20)
    _, _, remaining = world.calls[-1]
    assert remaining is not None
    assert remaining < 19.6


def test_a_retry_ends_at_the_calls_deadline(world: World, orders: grpc.Channel) -> None:
    unary, server_stream, *_ = methods(orders)
    unary(b"x")
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    world.gate.clear()
    attempts: list[Callable[[], Any]] = [
        lambda: unary(b"x", timeout=0.2),
        lambda: unary.future(b"x", timeout=0.2).result(),
        lambda: next(server_stream(b"x", timeout=0.2)),
    ]
    for attempt in attempts:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(attempt)
            error = waiting.exception(4)
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("kind", ["server stream", "client stream", "bidi"])
def test_an_open_stream_keeps_its_session_from_timing_out(world: World, auth: grpc.Channel, kind: str) -> None:
    world.lifetime = 0.4
    done = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"x"
        done.wait(20)

    with (
        Credentials(PasswordLogin("alice", "alice-password"), auth) as alice,
        grpc.insecure_channel(world.target) as plain,
    ):
        _, server_stream, client_stream, bidi = methods(grpc.intercept_channel(plain, *alice.interceptors()))
        opened: dict[str, Callable[[], Any]] = {
            "server stream": lambda: server_stream(b"then hold"),
            "client stream": lambda: client_stream.future(requests()),
            "bidi": lambda: bidi(requests()),
        }
        call = opened[kind]()
        wait_until(lambda: len(world.refreshes) >= 3)
        call.cancel()
        done.set()
        wait_until(lambda: "credmesh-renewal" not in {thread.name for thread in threading.enumerate()})
