"""Our client interceptors work before and after those of OpenTelemetry, for sync and aio calls of all four kinds."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from opentelemetry.instrumentation.grpc import (
    GrpcAioInstrumentorClient,
    GrpcInstrumentorClient,
    aio_client_interceptors,
    client_interceptor,
)
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel

from interceptors.client import AioCredentials, Credentials, PasswordLogin, aio_channel, channel
from interceptors.errors import Reason
from tests.interceptors.client.auth_server import World, methods, reason_in
from tests.support.waiting import wait_until

ALICE: Final = PasswordLogin("alice", "alice-password")
SYNC_ORDERS: Final = ("instrumented", "inside", "outside", "both")
AIO_ORDERS: Final = ("instrumented", "inside", "outside", "both")
KINDS: Final = ("unary", "with_call", "future", "server_stream", "client_stream", "bidi")
AIO_KINDS: Final = ("unary", "server_stream", "client_stream", "bidi")


class Traced:
    """OpenTelemetry's client interceptors, and the requests that they saw."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def sync(self, inner: Any) -> Any:
        """Returns a channel with OpenTelemetry's interceptor."""
        return intercept_channel(inner, client_interceptor(filter_=self._see))

    def aio(self) -> list[Any]:
        """Returns OpenTelemetry's aio interceptors."""
        return list(aio_client_interceptors(filter_=self._see))

    def _see(self, details: Any) -> bool:
        self.seen.append(details)
        return True


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture(params=SYNC_ORDERS)
def orders(
    request: pytest.FixtureRequest, world: World, credentials: Credentials, traced: Traced
) -> Iterator[grpc.Channel]:
    """A channel with alice's credentials, and OpenTelemetry's interceptor in one of the possible places."""
    with ExitStack() as stack:
        if request.param == "instrumented":
            instrumentor = GrpcInstrumentorClient(filter_=traced._see)
            instrumentor.instrument()
            stack.callback(instrumentor.uninstrument)
            yield stack.enter_context(channel(world.target, credentials=credentials, allow_plaintext=True))
            return
        made: Any = stack.enter_context(grpc.insecure_channel(world.target))
        if request.param in ("inside", "both"):
            made = traced.sync(made)
        made = grpc.intercept_channel(made, *credentials.interceptors())
        if request.param in ("outside", "both"):
            made = traced.sync(made)
        yield made


def call(made: Any, kind: str, request: bytes = b"x") -> list[bytes]:
    """Makes a call of one kind and returns its responses."""
    unary, server_stream, client_stream, bidi = methods(made)
    calls: dict[str, Callable[[], list[bytes]]] = {
        "unary": lambda: [unary(request)],
        "with_call": lambda: [unary.with_call(request)[0]],
        "future": lambda: [unary.future(request).result(10)],
        "server_stream": lambda: list(server_stream(request)),
        "client_stream": lambda: [client_stream(iter([request]))],
        "bidi": lambda: list(bidi(iter([request]))),
    }
    return calls[kind]()


def repeats(kind: str) -> bool:
    """Whether a refused call of this kind is made once more."""
    return kind not in ("client_stream", "bidi")


@pytest.mark.parametrize("kind", KINDS)
def test_calls_with_opentelemetry_have_credentials_that_are_replaced_when_refused(
    world: World, orders: grpc.Channel, credentials: Credentials, traced: Traced, kind: str
) -> None:
    assert call(orders, kind)[0] == b"token-1: x"
    assert traced.seen
    world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
    if not repeats(kind):
        with pytest.raises(grpc.RpcError) as error:
            call(orders, kind)
        assert reason_in(error.value) is Reason.CREDENTIAL_REVOKED
    assert call(orders, kind)[0] == b"token-2: x"
    assert len(world.calls) == 3
    wait_until(lambda: open_streams(credentials) == 0, what="no stream counts as open")


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_that_stays_is_the_callers_error_with_opentelemetry(
    world: World, orders: grpc.Channel, credentials: Credentials, kind: str
) -> None:
    world.refuse_everything = Reason.KEY_UNKNOWN
    with pytest.raises(grpc.RpcError) as error:
        call(orders, kind)
    assert reason_in(error.value) is Reason.KEY_UNKNOWN
    assert len(world.calls) == (2 if repeats(kind) else 1)
    wait_until(lambda: open_streams(credentials) == 0, what="no stream counts as open")


def test_a_stream_with_opentelemetry_counts_as_open_while_it_is_read(
    world: World, orders: grpc.Channel, credentials: Credentials
) -> None:
    stream = methods(orders)[1]
    responses = iter(stream(b"then hold"))
    assert next(responses) == b"token-1: then hold"
    assert open_streams(credentials) == 1
    world.go_on.set()
    assert list(responses) == [b"token-1: end"]
    wait_until(lambda: open_streams(credentials) == 0)


def test_an_abandoned_stream_with_opentelemetry_does_not_count(
    world: World, orders: grpc.Channel, credentials: Credentials
) -> None:
    stream = methods(orders)[1]
    abandoned = iter(stream(b"then hold"))
    next(abandoned)
    assert world.inside.wait(10)
    never_read = stream(b"x")
    del abandoned, never_read
    gc.collect()
    wait_until(lambda: open_streams(credentials) == 0)
    assert world.left.wait(10), "the server learned of it"


def test_a_cut_stream_with_opentelemetry_replaces_the_credential(orders: grpc.Channel) -> None:
    _, stream, client_stream, bidi = methods(orders)
    for number in (1, 2):
        responses = iter(stream(b"then refuse") if number == 1 else bidi(iter([b"x", b"then refuse"])))
        assert next(responses).startswith(f"token-{number}: ".encode())
        with pytest.raises(grpc.RpcError) as error:
            next(responses)
        assert reason_in(error.value) is Reason.CREDENTIAL_REVOKED
    assert client_stream(iter([b"x"])) == b"token-3: x"


def open_streams(credentials: Any) -> int:
    """How many streams keep the session of these credentials alive."""
    count: int = credentials._renewer._state.open_streams
    return count


# aio


def run_aio(world: World, order: str, traced: Traced, test: Callable[[AioCredentials, Any], Awaitable[None]]) -> None:
    """Runs a test with a channel that has alice's credentials and OpenTelemetry's interceptors."""

    async def with_channel(credentials: AioCredentials, made: grpc.aio.Channel) -> None:
        async with made:
            await asyncio.wait_for(test(credentials, made), 30)

    async def whole() -> None:
        async with grpc.aio.insecure_channel(world.target) as auth, AioCredentials(ALICE, auth) as credentials:
            if order == "instrumented":
                instrumentor = GrpcAioInstrumentorClient(filter_=traced._see)
                instrumentor.instrument()
                try:
                    made = aio_channel(world.target, credentials=credentials, allow_plaintext=True)
                finally:
                    instrumentor.uninstrument()
            else:
                interceptors = list(credentials.interceptors())
                if order in ("outside", "both"):
                    interceptors = [*traced.aio(), *interceptors]
                if order in ("inside", "both"):
                    interceptors = [*interceptors, *traced.aio()]
                made = grpc.aio.insecure_channel(world.target, interceptors=interceptors)
            await with_channel(credentials, made)

    asyncio.run(whole())


async def call_aio(made: Any, kind: str, request: bytes = b"x") -> list[bytes]:
    """Makes a call of one kind and returns its responses."""
    unary, server_stream, client_stream, bidi = methods(made)
    if kind == "unary":
        return [await unary(request)]
    if kind == "client_stream":
        return [await client_stream(aiter_of(request))]
    responses = server_stream(request) if kind == "server_stream" else bidi(aiter_of(request))
    return [response async for response in responses]


async def aiter_of(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


@pytest.mark.parametrize("order", AIO_ORDERS)
@pytest.mark.parametrize("kind", AIO_KINDS)
def test_aio_calls_with_opentelemetry_have_credentials_that_are_replaced_when_refused(
    world: World, traced: Traced, order: str, kind: str
) -> None:
    async def test(credentials: AioCredentials, made: Any) -> None:
        assert (await call_aio(made, kind))[0] == b"token-1: x"
        assert traced.seen
        world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
        if not repeats(kind):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call_aio(made, kind)
            assert reason_in(error.value) is Reason.CREDENTIAL_REVOKED
        assert (await call_aio(made, kind))[0] == b"token-2: x"
        assert open_streams(credentials) == 0

    run_aio(world, order, traced, test)
    assert len(world.calls) == 3


@pytest.mark.parametrize("order", AIO_ORDERS)
@pytest.mark.parametrize("kind", AIO_KINDS)
def test_a_refusal_that_stays_is_the_aio_callers_error_with_opentelemetry(
    world: World, traced: Traced, order: str, kind: str
) -> None:
    world.refuse_everything = Reason.KEY_UNKNOWN

    async def test(credentials: AioCredentials, made: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call_aio(made, kind)
        assert reason_in(error.value) is Reason.KEY_UNKNOWN
        assert open_streams(credentials) == 0

    run_aio(world, order, traced, test)
    assert len(world.calls) == (2 if repeats(kind) else 1)


@pytest.mark.parametrize("order", AIO_ORDERS)
def test_a_cut_aio_stream_with_opentelemetry_replaces_the_credential(world: World, traced: Traced, order: str) -> None:
    async def test(_: AioCredentials, made: Any) -> None:
        _, stream, _, bidi = methods(made)
        for number in (1, 2):
            responses = aiter(stream(b"then refuse") if number == 1 else bidi(aiter_of(b"x", b"then refuse")))
            assert (await anext(responses)).startswith(f"token-{number}: ".encode())
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await anext(responses)
            assert reason_in(error.value) is Reason.CREDENTIAL_REVOKED
        assert await call_aio(made, "client_stream") == [b"token-3: x"]

    run_aio(world, order, traced, test)
