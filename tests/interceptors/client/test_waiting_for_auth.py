"""A call's deadline and `wait_for_ready` apply to the login behind it, too. Sync and aio."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from interceptors.client import AioCredentials, Credentials, PasswordLogin
from tests.interceptors.client.auth_server import World, methods
from tests.interceptors.client.conftest import Connect
from tests.support.waiting import free_port, wait_until

ALICE: Final = PasswordLogin("alice", "alice-password")

QUICKLY: Final = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
"""Channel options that connect soon after the server has started."""

KINDS: Final[dict[str, Callable[..., bytes]]] = {
    "unary": lambda channel, **options: methods(channel)[0](b"x", **options),
    "unary.future": lambda channel, **options: methods(channel)[0].future(b"x", **options).result(20),
    "client_stream": lambda channel, **options: methods(channel)[2](iter([b"x"]), **options),
    "bidi": lambda channel, **options: next(methods(channel)[3](iter([b"x"]), **options)),
}
AIO_KINDS: Final = ("unary", "server_stream", "client_stream", "bidi")


async def aio_call(channel: Any, kind: str, **options: Any) -> bytes:
    """Makes a call of one kind, and returns its first response."""
    unary, server_stream, client_stream, bidi = methods(channel)
    response: bytes
    if kind == "unary":
        response = await unary(b"x", **options)
    elif kind == "client_stream":
        response = await client_stream(requests(), **options)
    else:
        call = server_stream(b"x", **options) if kind == "server_stream" else bidi(requests(), **options)
        response = await anext(aiter(call))
    return response


@contextlib.asynccontextmanager
async def signed_in(world: World, port: int) -> AsyncIterator[grpc.aio.Channel]:
    """Yields a channel whose calls need a login from the auth service at a port."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", QUICKLY) as auth, AioCredentials(ALICE, auth) as held:
        interceptors = list(held.interceptors())
        async with grpc.aio.insecure_channel(world.target, interceptors=interceptors) as channel:
            yield channel


async def requests() -> AsyncIterator[bytes]:
    yield b"x"


def login_has_failed(caplog: pytest.LogCaptureFixture) -> bool:
    return "no new credential (UNAVAILABLE)" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_waits_until_ready_waits_for_the_auth_service(
    connect: Connect, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "credmesh.client")
    later, port = World(), free_port()
    with (
        grpc.insecure_channel(f"127.0.0.1:{port}", QUICKLY) as auth,
        Credentials(ALICE, auth) as credentials,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(KINDS[kind], connect(credentials), wait_for_ready=True, timeout=20)
        wait_until(lambda: login_has_failed(caplog))
        later.start(port)
        try:
            assert answer.result(20) == b"token-1: x"
        finally:
            later.stop()


@pytest.mark.parametrize("kind", AIO_KINDS)
def test_an_aio_call_that_waits_until_ready_waits_for_the_auth_service(
    world: World, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "credmesh.client")
    later, port = World(), free_port()

    async def test() -> None:
        async with signed_in(world, port) as channel:
            answer = asyncio.create_task(aio_call(channel, kind, wait_for_ready=True, timeout=20))
            await asyncio.to_thread(wait_until, lambda: login_has_failed(caplog))
            later.start(port)
            assert await answer == b"token-1: x"

    try:
        asyncio.run(test())
    finally:
        later.stop()


@pytest.mark.parametrize("kind", ["unary", "bidi"])
def test_a_call_that_waits_until_ready_ends_at_its_deadline(connect: Connect, kind: str) -> None:
    with (
        grpc.insecure_channel(f"127.0.0.1:{free_port()}") as auth,
        Credentials(ALICE, auth) as credentials,
        pytest.raises(grpc.RpcError) as error,
    ):
        KINDS[kind](connect(credentials), wait_for_ready=True, timeout=1.5)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("kind", ["unary", "bidi"])
def test_an_aio_call_that_waits_until_ready_ends_at_its_deadline(world: World, kind: str) -> None:
    async def test() -> None:
        async with signed_in(world, free_port()) as channel:
            await aio_call(channel, kind, wait_for_ready=True, timeout=1.5)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        asyncio.run(test())
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_closed_credentials_end_the_wait(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "credmesh.client")
    with grpc.insecure_channel(f"127.0.0.1:{free_port()}") as auth, ThreadPoolExecutor(1) as pool:
        credentials = Credentials(ALICE, auth)
        answer = pool.submit(KINDS["unary"], connect(credentials), wait_for_ready=True)
        wait_until(lambda: login_has_failed(caplog))
        credentials.close()
        error = answer.exception(20)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.CANCELLED
