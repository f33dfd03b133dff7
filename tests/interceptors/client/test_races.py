"""Rare races between the last response and the end of a call, in an order that the test chooses.

The attempts replace gRPC's own call objects: they end, and report their end, at the critical moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio
import pytest

from interceptors.client.aio.retry import AioRetriedStream
from interceptors.client.renewal import HeldCredential
from interceptors.client.sync.streams import RetriedStream
from interceptors.errors import Reason, trailing_metadata


class Attempt(grpc.RpcError):
    """A stream that reports its refusal before its reader has received the only response."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.ended = False
        self.responses = [b"response"]

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        return not self.ended

    def done(self) -> bool:
        return self.ended

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAUTHENTICATED

    def trailing_metadata(self) -> Any:
        return trailing_metadata(Reason.CREDENTIAL_REVOKED)

    def end(self) -> None:
        self.ended = True
        for callback in self.callbacks:
            callback()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.responses:
            raise self
        response = self.responses.pop()
        self.end()
        return response


def test_a_stream_with_an_unread_response_at_its_end_is_not_repeated() -> None:
    actions: list[str] = []

    def replace_credential() -> Future[HeldCredential] | None:
        actions.append("renewal")
        return None

    first = Attempt()
    called: list[str] = []
    stream = RetriedStream(first, replace_credential, lambda held: actions.append("second attempt"), None, lambda: None)
    stream.add_callback(lambda: called.append("ended"))
    assert next(stream) == b"response"
    assert called == ["ended"]
    with pytest.raises(Attempt):
        next(stream)
    assert actions == []


class AioAttempt:
    """A grpc.aio stream that reports its refusal before its reader has received the only response."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def done(self) -> bool:
        return True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for callback in self.callbacks:
            callback(self)
        # Lets the loop run all that follows from the end before the response is there.
        for _ in range(10):
            await asyncio.wait([asyncio.get_running_loop().create_task(_nothing())])
        yield b"response"
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAUTHENTICATED)


async def _nothing() -> None:
    return


def test_an_aio_stream_with_an_unread_response_at_its_end_is_not_repeated() -> None:
    actions: list[str] = []

    async def is_renewable(_: Any) -> bool:
        return True

    async def make_second() -> Any:
        actions.append("second attempt")

    async def test() -> None:
        stream = AioRetriedStream(AioAttempt(), is_renewable, make_second, lambda _: None)
        responses = aiter(stream)
        assert await anext(responses) == b"response"
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(responses)
        assert actions == []

    asyncio.run(test())
