"""grpc.aio calls of all four kinds with credentials attached: what reaches the server, and what the caller gets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest

from credmesh.auth.v1 import auth_pb2
from interceptors.client import AioCredentials, CallerToken, FixedToken, PasswordLogin, RefreshTokenLogin
from interceptors.errors import Reason, reason_of
from tests.interceptors.client.auth_server import World, methods, reason_in
from tests.support.waiting import free_port, wait_until

RENEWABLE = [Reason.CREDENTIAL_EXPIRED, Reason.KEY_UNKNOWN, Reason.CREDENTIAL_REVOKED]
FINAL = [Reason.CREDENTIAL_INVALID, Reason.SCOPE_MISSING, Reason.MESH_STALE]
ALICE = PasswordLogin("alice", "alice-password")

T = TypeVar("T")


def by_name(value: Any) -> str:
    return str(value.name)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a test in a new event loop. Fails if the loop reports an exception that was never retrieved."""

    async def whole() -> T:
        unretrieved: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unretrieved.append(context))
        result = await asyncio.wait_for(work, 30)
        gc.collect()
        assert unretrieved == []
        return result

    return asyncio.run(whole())


async def until(condition: Callable[[], Any]) -> None:
    """Waits for a condition in a thread, so that the event loop goes on."""
    await asyncio.to_thread(wait_until, condition)


@contextlib.asynccontextmanager
async def signed_in(
    world: World, source: Any = ALICE, **options: Any
) -> AsyncIterator[tuple[AioCredentials, grpc.aio.Channel]]:
    """Yields credentials, and a channel to the service that attaches them."""
    async with grpc.aio.insecure_channel(world.target) as auth, AioCredentials(source, auth, **options) as credentials:
        interceptors = list(credentials.interceptors())
        async with grpc.aio.insecure_channel(world.target, interceptors=interceptors) as channel:
            yield credentials, channel


def call_each_kind(channel: Any, **options: Any) -> Iterator[Callable[[], Awaitable[list[bytes]]]]:
    """Yields a function per kind and style of call. It makes the call and returns all its responses."""
    unary, server_stream, client_stream, bidi = methods(channel)

    async def requests() -> AsyncIterator[bytes]:
        yield b"x"
        yield b"y"

    async def one() -> list[bytes]:
        return [await unary(b"x", **options)]

    async def answers() -> list[bytes]:
        return [answer async for answer in server_stream(b"x", **options)]

    async def reading() -> list[bytes]:
        call = server_stream(b"x", **options)
        found = []
        while (answer := await call.read()) is not grpc.aio.EOF:
            found.append(answer)
        return found

    async def sending() -> list[bytes]:
        return [await client_stream(requests(), **options)]

    async def writing() -> list[bytes]:
        call = client_stream(**options)
        with contextlib.suppress(asyncio.InvalidStateError):  # a refused call can end before the first write
            await call.write(b"x")
            await call.done_writing()
        return [await call]

    async def both() -> list[bytes]:
        return [answer async for answer in bidi(requests(), **options)]

    yield from (one, answers, reading, sending, writing, both)


def test_every_kind_and_style_of_call_carries_the_credential_once(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            assert [await call() for call in call_each_kind(channel)] == [
                [b"token-1: x"],
                [b"token-1: x", b"token-1: end"],
                [b"token-1: x", b"token-1: end"],
                [b"token-1: x y"],
                [b"token-1: x"],
                [b"token-1: x", b"token-1: y"],
            ]
        assert len(world.calls) == 6

    run(test())


def test_the_callers_own_metadata_is_sent_and_stays_unchanged(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            mine = grpc.aio.Metadata(("x-mine", "1"), ("x-bin", b"\x00"))
            for call in call_each_kind(channel, metadata=mine):
                await call()
                _, metadata, _ = world.calls[-1]
                assert ("x-mine", "1") in metadata
                assert ("x-bin", b"\x00") in metadata
            assert mine == grpc.aio.Metadata(("x-mine", "1"), ("x-bin", b"\x00"))

    run(test())


def test_a_second_authorization_entry_is_a_clear_error(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            unary, server_stream, client_stream, _ = methods(channel)
            metadata = (("authorization", "Bearer other"),)
            for call in (unary(b"x", metadata=metadata), client_stream(iter([b"x"]), metadata=metadata)):
                with pytest.raises(ValueError, match="already holds an 'authorization' entry"):
                    await call
            with pytest.raises(ValueError, match="already holds an 'authorization' entry"):
                await anext(aiter(server_stream(b"x", metadata=metadata)))
        assert world.calls == []

    run(test())


class Recorder(grpc.aio.UnaryUnaryClientInterceptor):
    """Another interceptor, between the credentials and the wire. It records the details and adds to the metadata."""

    def __init__(self) -> None:
        self.details: list[grpc.aio.ClientCallDetails] = []

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.details.append(client_call_details)
        client_call_details.metadata.add("x-inner", "1")
        return await continuation(client_call_details._replace(credentials=None), request)


def test_every_option_of_a_call_passes_through(world: World) -> None:
    async def test() -> None:
        recorder = Recorder()
        mine = grpc.access_token_call_credentials("other")
        async with grpc.aio.insecure_channel(world.target) as auth, AioCredentials(ALICE, auth) as credentials:
            interceptors = [*credentials.interceptors(), recorder]
            async with grpc.aio.insecure_channel(world.target, interceptors=interceptors) as channel:
                for _ in range(2):
                    await methods(channel)[0](
                        b"x", timeout=7.5, credentials=mine, wait_for_ready=True, compression=grpc.Compression.Gzip
                    )
        for details in recorder.details:
            assert details.timeout is not None
            assert 2.5 < details.timeout <= 7.5
            assert details.credentials is mine
            assert details.wait_for_ready is True
            assert details.metadata is not None
            assert details.metadata.get_all("x-inner") == ["1"]
            assert details.metadata["grpc-internal-encoding-request"] == "gzip"

    run(test())


# Renewing


def test_a_thousand_callers_sign_in_once(world: World) -> None:
    async def test() -> None:
        world.gate.clear()
        async with signed_in(world) as (credentials, _):
            tokens = [asyncio.create_task(credentials.token()) for _ in range(1000)]
            await until(world.asked.is_set)
            world.gate.set()
            assert set(await asyncio.gather(*tokens)) == {"token-1"}
            assert (credentials.subject, credentials.session_id) == ("alice", "session-1")
        assert len(world.logins) == 1

    run(test())


def test_a_renewal_runs_in_the_background_and_delays_no_call(world: World) -> None:
    async def test() -> None:
        world.lifetime = 2.0
        async with signed_in(world) as (credentials, _):
            assert await credentials.token() == "token-1"
            world.gate.clear()
            world.asked.clear()
            world.lifetime = 300.0
            await until(world.asked.is_set)
            # While the renewal waits for its answer, every call gets the held credential at once.
            for _ in range(1000):
                assert await credentials.token(timeout=0) == "token-1"
            world.gate.set()
            await until(lambda: credentials.session_id == "session-2")
            assert await credentials.token() == "token-2"
        assert world.refreshes == ["refresh-1"]

    run(test())


def test_calls_go_on_across_refreshes(world: World) -> None:
    """The server refuses a token from the moment of its expiry, so a late renewal would fail calls."""
    world.lifetime = 2.0

    async def test() -> int:
        async with signed_in(world) as (_, channel):
            unary = methods(channel)[0]

            async def call_on() -> int:
                calls = 0
                while len(world.refreshes) < 2:
                    assert (await unary(b"x", timeout=5)).startswith(b"token-")
                    calls += 1
                return calls

            return sum(await asyncio.gather(*(call_on() for _ in range(50))))

    assert run(test()) > 100
    assert len(world.logins) == 1
    assert len(world.refreshes) == len(set(world.refreshes))


def test_an_idle_client_makes_no_requests_and_refreshes_with_its_next_call(world: World) -> None:
    world.lifetime = 0.3

    async def test() -> None:
        async with signed_in(world) as (credentials, _):
            await credentials.token()
            # The one use above causes one renewal. The new token is never used.
            await until(lambda: len(world.refreshes) == 1)
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.4)
            assert len(world.refreshes) == 1
            assert await credentials.token() == "token-3"

    run(test())


def test_a_wrong_password_is_tried_once_however_many_calls_are_made(world: World) -> None:
    world.refuse_login = Reason.CREDENTIAL_INVALID

    async def test() -> None:
        async with signed_in(world) as (credentials, _):
            for _ in range(100):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await credentials.token()
                assert reason_in(error.value) is Reason.CREDENTIAL_INVALID
        assert len(world.logins) <= 2

    run(test())


def test_an_unreachable_auth_service_is_named_as_the_cause() -> None:
    async def test() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{free_port()}") as auth:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await AioCredentials(ALICE, auth).token()
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            assert str(error.value.details()).startswith("the auth service gave no credential: ")

    run(test())


def test_a_caller_that_stops_waiting_does_not_cancel_the_renewal(world: World) -> None:
    async def test() -> None:
        world.gate.clear()
        async with signed_in(world) as (credentials, _):
            others = asyncio.create_task(credentials.token())
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await credentials.token(timeout=0.05)
            assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            cancelled = asyncio.create_task(credentials.token())
            await until(world.asked.is_set)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            world.gate.set()
            assert await others == "token-1"
        assert len(world.logins) == 1

    run(test())


def test_closing_cancels_a_renewal_under_way(world: World) -> None:
    async def test() -> None:
        world.gate.clear()
        async with signed_in(world) as (credentials, _):
            waiting = asyncio.create_task(credentials.token())
            await until(world.asked.is_set)
            await credentials.close()
            for work in (waiting, credentials.token()):
                with pytest.raises(grpc.aio.AioRpcError, match="closed") as error:
                    await work
                assert error.value.code() is grpc.StatusCode.CANCELLED

    run(test())


def test_another_loop_may_use_the_credential_but_not_renew_it(world: World) -> None:
    async def first() -> AioCredentials:
        credentials = AioCredentials(ALICE, grpc.aio.insecure_channel(world.target))
        await credentials.token()
        return credentials

    credentials = run(first())

    async def second() -> None:
        assert await credentials.token() == "token-1"
        world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
        interceptors = list(credentials.interceptors())
        async with grpc.aio.insecure_channel(world.target, interceptors=interceptors) as channel:
            with pytest.raises(RuntimeError, match="another event loop"):
                await methods(channel)[0](b"x")

    run(second())


@pytest.mark.parametrize("coroutine", [False, True])
def test_on_rotate_gets_every_refresh_token(world: World, coroutine: bool) -> None:
    kept: list[str] = []

    def keep(credentials: auth_pb2.Credentials) -> None:
        kept.append(credentials.refresh_token)

    async def keep_later(credentials: auth_pb2.Credentials) -> None:
        kept.append(credentials.refresh_token)

    async def test() -> None:
        async with signed_in(world, on_rotate=keep_later if coroutine else keep) as (credentials, _):
            await credentials.token()
            assert kept == ["refresh-1"]
        async with signed_in(world, RefreshTokenLogin(kept[0]), on_rotate=keep) as (credentials, _):
            assert await credentials.token() == "token-2"
            assert kept == ["refresh-1", "refresh-2"]

    run(test())


def test_a_failing_on_rotate_is_logged_and_costs_no_session(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: auth_pb2.Credentials) -> None:
        raise OSError("no space left on device")

    async def test() -> None:
        with caplog.at_level(logging.ERROR, "credmesh.client"):
            async with signed_in(world, on_rotate=fail) as (credentials, _):
                assert await credentials.token() == "token-1"
        assert "no space left on device" in caplog.text

    run(test())


def test_propagation_outside_a_handler_says_where_it_works(world: World) -> None:
    async def test() -> None:
        interceptors = list(AioCredentials(CallerToken()).interceptors())
        async with grpc.aio.insecure_channel(world.target, interceptors=interceptors) as channel:
            with pytest.raises(LookupError, match="in the handler of a method"):
                await methods(channel)[0](b"x")

    run(test())


def test_a_source_that_signs_in_needs_a_channel_and_says_so() -> None:
    with pytest.raises(ValueError, match="PasswordLogin needs a channel to the auth service"):
        AioCredentials(ALICE)


# Retrying


@pytest.mark.parametrize("reason", RENEWABLE, ids=by_name)
def test_a_call_with_a_refused_credential_is_repeated_with_a_fresh_one(world: World, reason: Reason) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            unary, server_stream, *_ = methods(channel)
            world.refuse("token-1", reason)
            assert await unary(b"x") == b"token-2: x"
            assert len(world.calls) == 2
            world.refuse("token-2", reason)
            assert [answer async for answer in server_stream(b"x")] == [b"token-3: x", b"token-3: end"]
            assert len(world.calls) == 4
            world.refuse("token-3", reason)
            assert await server_stream(b"x").read() == b"token-4: x"
        assert len(world.logins) == 1

    run(test())


@pytest.mark.parametrize("reason", RENEWABLE, ids=by_name)
def test_a_call_is_repeated_once_and_a_stream_of_requests_never(world: World, reason: Reason) -> None:
    world.refuse_everything = reason

    async def test() -> None:
        async with signed_in(world) as (_, channel):
            attempts = []
            for call in call_each_kind(channel):
                before = len(world.calls)
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call()
                assert reason_in(error.value) is reason
                attempts.append(len(world.calls) - before)
            assert attempts == [2, 2, 2, 1, 1, 1]

    run(test())


@pytest.mark.parametrize("reason", FINAL, ids=by_name)
def test_a_refusal_that_no_fresh_credential_removes_is_passed_on(world: World, reason: Reason) -> None:
    world.refuse_everything = reason

    async def test() -> None:
        async with signed_in(world) as (_, channel):
            for number, call in enumerate(call_each_kind(channel), start=1):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call()
                assert reason_in(error.value) is reason
                assert len(world.calls) == number
        assert world.refreshes == []

    run(test())


def test_a_stream_is_never_repeated_after_a_response(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            call = methods(channel)[1](b"then refuse")
            answers = aiter(call)
            assert await anext(answers) == b"token-1: then refuse"
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await anext(answers)
            assert reason_in(error.value) is Reason.CREDENTIAL_REVOKED
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert len(world.calls) == 1

    run(test())


def test_a_refused_stream_of_requests_always_gets_the_reason(world: World) -> None:
    """Plain grpc.aio loses the status of one such call in ten, since a failing write replaces it."""
    world.refuse_everything = Reason.CREDENTIAL_INVALID

    async def test() -> None:
        async with signed_in(world, FixedToken("mine")) as (_, channel):
            _, _, client_stream, bidi = methods(channel)

            async def requests() -> AsyncIterator[bytes]:
                for _ in range(3):
                    yield b"x" * 100_000

            async def reason(call: Any) -> Reason | None:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await (anext(aiter(call)) if isinstance(call, grpc.aio.StreamStreamCall) else call)
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
                assert reason_of(await call.trailing_metadata()) is Reason.CREDENTIAL_INVALID
                return reason_in(error.value)

            for method in (client_stream, bidi):
                reasons = await asyncio.gather(*(reason(method(requests())) for _ in range(100)))
                assert set(reasons) == {Reason.CREDENTIAL_INVALID}

    run(test())


def test_a_fixed_token_is_not_retried(world: World) -> None:
    world.refuse("mine", Reason.CREDENTIAL_EXPIRED)

    async def test() -> None:
        interceptors = list(AioCredentials(FixedToken("mine")).interceptors())
        async with grpc.aio.insecure_channel(world.target, interceptors=interceptors) as channel:
            for call in call_each_kind(channel):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call()
                assert reason_in(error.value) is Reason.CREDENTIAL_EXPIRED
        assert len(world.calls) == 6

    run(test())


def test_a_refused_call_ends_with_the_auth_services_refusal(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            unary, server_stream, *_ = methods(channel)
            await unary(b"x")
            world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
            world.refuse_refresh = Reason.CREDENTIAL_REVOKED
            world.refuse_login = Reason.RATE_LIMITED
            for work in (unary(b"x"), anext(aiter(server_stream(b"x")))):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await work
                assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert error.value.details() == Reason.RATE_LIMITED.message
                assert reason_in(error.value) is Reason.RATE_LIMITED
            for call in (unary(b"x"), server_stream(b"x")):
                assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert await call.details() == Reason.RATE_LIMITED.message
                assert call.done()

    run(test())


def test_a_refused_login_fails_calls_of_every_kind_alike(world: World) -> None:
    world.refuse_login = Reason.CREDENTIAL_INVALID

    async def test() -> None:
        async with signed_in(world) as (_, channel):
            for call in call_each_kind(channel):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call()
                assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
                assert error.value.details() == Reason.CREDENTIAL_INVALID.message
                assert reason_in(error.value) is Reason.CREDENTIAL_INVALID
        assert world.calls == []

    run(test())


def test_a_revocation_costs_a_thousand_callers_one_refresh_and_no_failure(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            unary = methods(channel)[0]
            await unary(b"x")
            world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
            assert set(await asyncio.gather(*(unary(b"x") for _ in range(1000)))) == {b"token-2: x"}
        assert world.refreshes == ["refresh-1"]

    run(test())


# Calls behave like those of grpc.aio


def test_retried_calls_look_like_any_other(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            unary, server_stream, *_ = methods(channel)
            world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
            call = unary(b"x")
            called: list[Any] = []
            call.add_done_callback(called.append)
            assert await call == b"token-2: x"
            await check_outcome(call, "token-2", called)
            world.refuse("token-2", Reason.CREDENTIAL_REVOKED)
            call = server_stream(b"x")
            called = []
            call.add_done_callback(called.append)
            assert [answer async for answer in call] == [b"token-3: x", b"token-3: end"]
            await check_outcome(call, "token-3", called)

    async def check_outcome(call: Any, token: str, called: list[Any]) -> None:
        assert await call.code() is grpc.StatusCode.OK
        assert ("x-handler", token) in tuple(await call.initial_metadata())
        assert await call.details() == ""
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()
        await until(lambda: called)
        assert called == [call]

    run(test())


def test_a_refused_stream_is_retried_even_without_a_reader(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            world.refuse("token-1", Reason.CREDENTIAL_EXPIRED)
            call = methods(channel)[1](b"x")
            await until(lambda: len(world.calls) == 2)
            assert [answer async for answer in call] == [b"token-2: x", b"token-2: end"]

    run(test())


def test_an_open_stream_has_initial_metadata_before_its_first_response(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            call = methods(channel)[1](b"hold")
            assert ("x-handler", "token-1") in tuple(await call.initial_metadata())
            assert not call.done()
            call.cancel()

    run(test())


@pytest.mark.parametrize("kind", [0, 1])
def test_a_call_can_be_cancelled_while_it_runs(world: World, kind: int) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            call = methods(channel)[kind](b"hold")
            reading = asyncio.create_task(finish(call))
            await until(world.inside.is_set)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert await call.code() is grpc.StatusCode.CANCELLED
            assert call.cancelled()
            await until(world.left.is_set)

    run(test())


@pytest.mark.parametrize("kind", [0, 1])
def test_a_call_whose_task_is_cancelled_ends_at_the_server(world: World, kind: int) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            call = methods(channel)[kind](b"hold")
            reading = asyncio.create_task(finish(call))
            await until(world.inside.is_set)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await until(world.left.is_set)

    run(test())


@pytest.mark.parametrize("kind", [0, 1])
def test_a_call_can_be_cancelled_while_its_credential_is_renewed(world: World, kind: int) -> None:
    async def test() -> None:
        async with signed_in(world) as (credentials, channel):
            await credentials.token()
            world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
            world.gate.clear()
            world.asked.clear()
            call = methods(channel)[kind](b"x")
            reading = asyncio.create_task(finish(call))
            await until(world.asked.is_set)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert await call.code() is grpc.StatusCode.CANCELLED
            assert call.cancelled()
            world.gate.set()
            # The renewal that the call started goes on for later calls.
            await until(lambda: credentials.session_id == "session-2")
        assert len(world.calls) == 1

    run(test())


async def finish(call: Any) -> list[bytes]:
    if isinstance(call, grpc.aio.UnaryStreamCall):
        return [answer async for answer in call]
    return [await call]


def test_requests_can_be_written_while_responses_arrive(world: World) -> None:
    async def test() -> None:
        async with signed_in(world) as (_, channel):
            call = methods(channel)[3]()
            for number in range(3):
                await call.write(str(number).encode())
                assert await call.read() == f"token-1: {number}".encode()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    run(test())


# Deadlines


def test_waiting_for_a_credential_counts_towards_the_timeout(world: World) -> None:
    world.gate.clear()

    async def test() -> None:
        async with signed_in(world) as (_, channel):
            for call in call_each_kind(channel, timeout=0.1):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call()
                assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert world.calls == []

    run(test())


@pytest.mark.parametrize("kind", [0, 1])
def test_a_retry_ends_at_the_calls_deadline(world: World, kind: int) -> None:
    async def test() -> None:
        async with signed_in(world) as (credentials, channel):
            await credentials.token()
            world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
            world.gate.clear()
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await asyncio.wait_for(finish(methods(channel)[kind](b"x", timeout=0.2)), 4)
            assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    run(test())


def test_an_open_stream_keeps_its_session_from_timing_out(world: World) -> None:
    world.lifetime = 0.4

    async def test() -> None:
        async with signed_in(world) as (_, channel):
            call = methods(channel)[1](b"then hold")
            assert await call.read() == b"token-1: then hold"
            await until(lambda: len(world.refreshes) >= 3)
            call.cancel()

    run(test())
