"""Races that real servers show once in a million calls, in an order chosen by hand.

The attempts here stand in for gRPC's own call objects: they are over, and tell so, at the moment that matters.
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
    """A stream that is refused while its only answer is being handed out: the end is told before the answer is read."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.over = False
        self.answers = [b"answer"]

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        return not self.over

    def done(self) -> bool:
        return self.over

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAUTHENTICATED

    def trailing_metadata(self) -> Any:
        return trailing_metadata(Reason.CREDENTIAL_REVOKED)

    def end(self) -> None:
        self.over = True
        for callback in self.callbacks:
            callback()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.answers:
            raise self
        answer = self.answers.pop()
        self.end()
        return answer


def test_an_answer_that_was_on_its_way_when_the_call_ended_is_not_asked_for_again() -> None:
    asked: list[str] = []

    def renew() -> Future[HeldCredential] | None:
        asked.append("renewal")
        return None

    first = Attempt()
    called: list[str] = []
    stream = RetriedStream(first, renew, lambda held: asked.append("again"), None)
    stream.add_callback(lambda: called.append("over"))
    assert next(stream) == b"answer"
    assert called == ["over"]
    with pytest.raises(Attempt):
        next(stream)
    assert asked == []


class AioAttempt:
    """The same for grpc.aio."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def done(self) -> bool:
        return True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for callback in self.callbacks:
            callback(self)
        # What was told about the end is acted upon before the answer is there.
        for _ in range(10):
            await asyncio.wait([asyncio.get_running_loop().create_task(_nothing())])
        yield b"answer"
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAUTHENTICATED)


async def _nothing() -> None:
    return


def test_an_aio_answer_that_was_on_its_way_when_the_call_ended_is_not_asked_for_again() -> None:
    asked: list[str] = []

    async def refused(_: Any) -> bool:
        return True

    async def again() -> Any:
        asked.append("again")

    async def test() -> None:
        stream = AioRetriedStream(AioAttempt(), refused, again)
        answers = aiter(stream)
        assert await anext(answers) == b"answer"
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(answers)
        assert asked == []

    asyncio.run(test())
