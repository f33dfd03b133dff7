"""A refused credential of a stream that is not repeated: the next call takes a new one. Sync and aio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from interceptors.client import AioCredentials, ClientSecret, Credentials, PasswordLogin
from interceptors.errors import Reason
from tests.interceptors.client.auth_server import World, methods, reason_in
from tests.interceptors.client.conftest import Connect

SOURCES: Final = {
    "tokens": PasswordLogin("alice", "alice-password"),
    "opaque": PasswordLogin("alice", "alice-password", opaque=True),
    "client": ClientSecret("orders", "orders-secret", opaque=True),
}
each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)

SYNC_KINDS: Final[dict[str, Callable[..., list[bytes]]]] = {
    "client_stream": lambda channel, *requests: [methods(channel)[2](iter(requests), timeout=10)],
    "client_stream.with_call": lambda channel, *requests: [
        methods(channel)[2].with_call(iter(requests), timeout=10)[0]
    ],
    "client_stream.future": lambda channel, *requests: [methods(channel)[2].future(iter(requests)).result(10)],
    "bidi": lambda channel, *requests: list(methods(channel)[3](iter(requests), timeout=10)),
}


async def aio_client_stream(channel: Any, *requests: bytes) -> list[bytes]:
    return [await methods(channel)[2](aiter_of(*requests), timeout=10)]


async def aio_client_stream_written(channel: Any, *requests: bytes) -> list[bytes]:
    call = methods(channel)[2](timeout=10)
    for request in requests:
        await call.write(request)
    await call.done_writing()
    return [await call]


async def aio_bidi(channel: Any, *requests: bytes) -> list[bytes]:
    return [response async for response in methods(channel)[3](aiter_of(*requests), timeout=10)]


async def aiter_of(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


AIO_KINDS: Final[dict[str, Callable[..., Awaitable[list[bytes]]]]] = {
    "client_stream": aio_client_stream,
    "client_stream.write": aio_client_stream_written,
    "bidi": aio_bidi,
}


@each_source
@pytest.mark.parametrize("kind", SYNC_KINDS)
def test_the_call_after_a_refused_request_stream_uses_a_new_credential(
    world: World, auth: grpc.Channel, connect: Connect, source: Any, kind: str
) -> None:
    call = SYNC_KINDS[kind]
    with Credentials(source, auth) as credentials:
        channel = connect(credentials)
        assert call(channel, b"x") == [b"token-1: x"]
        for number, reason in enumerate((Reason.CREDENTIAL_REVOKED, Reason.KEY_UNKNOWN), start=1):
            world.refuse(f"token-{number}", reason)
            with pytest.raises(grpc.RpcError) as error:
                call(channel, b"x")
            assert reason_in(error.value) is reason
            assert call(channel, b"x") == [f"token-{number + 1}: x".encode()]
    assert len(world.calls) == 5, "no refused call was replayed"
    assert len(world.logins) + len(world.refreshes) == 3


@each_source
@pytest.mark.parametrize("kind", AIO_KINDS)
def test_the_call_after_a_refused_aio_request_stream_uses_a_new_credential(
    world: World, source: Any, kind: str
) -> None:
    call = AIO_KINDS[kind]

    async def test(channel: Any) -> None:
        assert await call(channel, b"x") == [b"token-1: x"]
        for number, reason in enumerate((Reason.CREDENTIAL_REVOKED, Reason.KEY_UNKNOWN), start=1):
            world.refuse(f"token-{number}", reason)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(channel, b"x")
            assert reason_in(error.value) is reason
            assert await call(channel, b"x") == [f"token-{number + 1}: x".encode()]

    run_aio(world, source, test)
    assert len(world.calls) == 5, "no refused call was replayed"
    assert len(world.logins) + len(world.refreshes) == 3


@each_source
@pytest.mark.parametrize("server_stream", [True, False], ids=["server_stream", "bidi"])
def test_the_call_after_a_stream_that_was_cut_midway_uses_a_new_credential(
    auth: grpc.Channel, connect: Connect, source: Any, server_stream: bool
) -> None:
    with Credentials(source, auth) as credentials:
        _, stream, client_stream, bidi = methods(connect(credentials))
        for number in range(1, 4):
            call = stream(b"then refuse") if server_stream else bidi(iter([b"x", b"then refuse"]))
            assert next(call).startswith(f"token-{number}: ".encode())
            with pytest.raises(grpc.RpcError) as error:
                next(call)
            assert reason_in(error.value) is Reason.CREDENTIAL_REVOKED
        assert client_stream(iter([b"x"])) == b"token-4: x"


@each_source
@pytest.mark.parametrize("server_stream", [True, False], ids=["server_stream", "bidi"])
def test_the_call_after_an_aio_stream_that_was_cut_midway_uses_a_new_credential(
    world: World, source: Any, server_stream: bool
) -> None:
    async def test(channel: Any) -> None:
        _, stream, _, bidi = methods(channel)
        for number in range(1, 4):
            call = stream(b"then refuse") if server_stream else bidi(aiter_of(b"x", b"then refuse"))
            responses = aiter(call)
            assert (await anext(responses)).startswith(f"token-{number}: ".encode())
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await anext(responses)
            assert reason_in(error.value) is Reason.CREDENTIAL_REVOKED
        assert await aio_client_stream(channel, b"x") == [b"token-4: x"]

    run_aio(world, source, test)


def test_a_server_that_refuses_every_stream_causes_few_renewals(world: World, orders: grpc.Channel) -> None:
    world.refuse_everything = Reason.CREDENTIAL_EXPIRED
    for _ in range(60):
        with pytest.raises(grpc.RpcError):
            list(methods(orders)[3](iter([b"x"])))
    assert len(world.calls) == 60
    assert len(world.logins) == 1
    assert 20 <= len(world.refreshes) <= 40, "20 at once, then one a second"


def run_aio(world: World, source: Any, test: Callable[[Any], Awaitable[None]]) -> None:
    """Runs a test with a grpc.aio channel that attaches credentials."""

    async def whole() -> None:
        async with grpc.aio.insecure_channel(world.target) as auth, AioCredentials(source, auth) as credentials:
            interceptors = list(credentials.interceptors())
            async with grpc.aio.insecure_channel(world.target, interceptors=interceptors) as channel:
                await asyncio.wait_for(test(channel), 30)

    asyncio.run(whole())
