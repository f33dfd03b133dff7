"""Probe clients: the same few methods over `grpc` and over `grpc.aio`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Protocol, Self

import grpc
import grpc.aio

from interceptors import Reason, reason_of
from tests.support.probe.schema import METHODS, StringValue, multicallable
from tests.support.probe.servers import Loop

__all__ = ["CLIENTS", "Client", "Outcome", "Stream", "bearer", "make_client"]

CLIENTS = ("sync", "aio")

Metadata = Sequence[tuple[str, str | bytes]]

_LOST: Final = "Internal error from Core"
"""What grpc.aio's client reports, even without an interceptor, when it loses the status of a call: of a bidirectional
call that is refused while it sends its first message. That happens to few calls, or to nine in ten while both ends are
busy. Such a call is made again, since these tests are about the server."""

_MAX_ATTEMPTS: Final = 1000
"""They take a few seconds. Ninety lost calls in a row have been seen."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended, and the answers before."""

    code: grpc.StatusCode
    details: str
    reason: Reason | None
    answers: tuple[str, ...] = ()


class Stream(Protocol):
    """An open call."""

    def next(self) -> str:
        """Returns the next answer."""
        ...

    def cancel(self) -> None:
        """Cancels the call."""
        ...

    def end(self, timeout: float = 10) -> Outcome:
        """Waits for the end of the call, and returns its outcome."""
        ...


class Client(Protocol):
    """Calls the probe."""

    def call(self, method: str, *texts: str, metadata: Metadata = (), timeout: float = 10) -> Outcome:
        """Makes a call and waits for its end. A request stream sends every text."""
        ...

    def open(self, method: str, text: str, *, metadata: Metadata = (), timeout: float = 30) -> Stream:
        """Opens a call; a request stream stays open after the text."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def bearer(token: str) -> Metadata:
    """Returns metadata with a credential."""
    return (("authorization", f"Bearer {token}"),)


def make_client(kind: str, target: str, interceptors: Sequence[Any] = ()) -> Client:
    """Returns a client. kind: one of CLIENTS."""
    return SyncClient(target, interceptors) if kind == "sync" else AioClient(target, interceptors)


def _outcome(error: Any, answers: Sequence[str] = ()) -> Outcome:
    return Outcome(error.code(), error.details() or "", reason_of(error), tuple(answers))


class SyncClient:
    """Calls by `grpc`."""

    def __init__(self, target: str, interceptors: Sequence[Any] = ()) -> None:
        self._channel = grpc.insecure_channel(target)
        self._calls = grpc.intercept_channel(self._channel, *interceptors) if interceptors else self._channel

    def call(self, method: str, *texts: str, metadata: Metadata = (), timeout: float = 10) -> Outcome:
        """See Client."""
        request_streams, response_streams = METHODS[method]
        requests = [StringValue(value=text) for text in texts]
        answers: list[str] = []
        try:
            made = multicallable(self._calls, method)(
                iter(requests) if request_streams else requests[0], metadata=metadata, timeout=timeout
            )
            answers.extend(answer.value for answer in (made if response_streams else [made]))
        except grpc.RpcError as error:
            return _outcome(error, answers)
        return Outcome(grpc.StatusCode.OK, "", None, tuple(answers))

    def open(self, method: str, text: str, *, metadata: Metadata = (), timeout: float = 30) -> Stream:
        """See Client."""
        return _SyncStream(multicallable(self._calls, method), METHODS[method], text, metadata, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._channel.close()


class _SyncStream:
    def __init__(
        self, multicallable: Any, kind: tuple[bool, bool], text: str, metadata: Metadata, timeout: float
    ) -> None:
        self._more: SimpleQueue[StringValue | None] = SimpleQueue()
        self._more.put(StringValue(value=text))
        request_streams, self._response_streams = kind
        request = self._requests() if request_streams else StringValue(value=text)
        begin = multicallable if self._response_streams else multicallable.future
        self._call = begin(request, metadata=metadata, timeout=timeout)

    def _requests(self) -> Iterator[StringValue]:
        while (request := self._more.get()) is not None:
            yield request

    def next(self) -> str:
        answer: str = next(self._call).value
        return answer

    def cancel(self) -> None:
        self._call.cancel()
        self._more.put(None)

    def end(self, timeout: float = 10) -> Outcome:
        del timeout  # the call's own deadline bounds this
        if self._response_streams:
            # gRPC returns the status only after all messages were read.
            with contextlib.suppress(grpc.RpcError):
                for _ in self._call:
                    pass
        self._call.code()
        self._more.put(None)
        return _outcome(self._call)


class AioClient:
    """Calls by `grpc.aio`, in a separate event loop."""

    def __init__(self, target: str, interceptors: Sequence[Any] = ()) -> None:
        self._loop = Loop()
        self._channel = self._loop.run(self._open(target, interceptors))

    async def _open(self, target: str, interceptors: Sequence[Any]) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(target, interceptors=list(interceptors))

    def call(self, method: str, *texts: str, metadata: Metadata = (), timeout: float = 10) -> Outcome:
        """See Client."""
        for _ in range(_MAX_ATTEMPTS):
            outcome = self._loop.run(self._call(method, texts, metadata, timeout))
            if outcome.details != _LOST:
                return outcome
        raise AssertionError(f"{method}: grpc.aio lost the status of {_MAX_ATTEMPTS} calls in a row")

    async def _call(self, method: str, texts: Sequence[str], metadata: Metadata, timeout: float) -> Outcome:
        request_streams, response_streams = METHODS[method]
        requests = [StringValue(value=text) for text in texts]
        answers: list[str] = []
        try:
            made = multicallable(self._channel, method)(
                iter(requests) if request_streams else requests[0], metadata=metadata, timeout=timeout
            )
            if response_streams:
                async for answer in made:
                    answers += [answer.value]
            else:
                answers.append((await made).value)
        except grpc.aio.AioRpcError as error:
            return _outcome(error, answers)
        return Outcome(grpc.StatusCode.OK, "", None, tuple(answers))

    def open(self, method: str, text: str, *, metadata: Metadata = (), timeout: float = 30) -> Stream:
        """See Client."""
        return self._loop.run(self._open_stream(method, text, metadata, timeout))

    async def _open_stream(self, method: str, text: str, metadata: Metadata, timeout: float) -> Stream:
        return _AioStream(self._loop, multicallable(self._channel, method), METHODS[method], text, metadata, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run(self._channel.close())
        self._loop.stop()


class _AioStream:
    def __init__(
        self,
        loop: Loop,
        multicallable: Any,
        kind: tuple[bool, bool],
        text: str,
        metadata: Metadata,
        timeout: float,
    ) -> None:
        self._loop = loop
        self._done = asyncio.Event()
        request_streams, self._response_streams = kind
        request = self._requests(text) if request_streams else StringValue(value=text)
        self._call = multicallable(request, metadata=metadata, timeout=timeout)

    async def _requests(self, text: str) -> AsyncIterator[StringValue]:
        yield StringValue(value=text)
        await self._done.wait()

    def next(self) -> str:
        async def read() -> str:
            answer = await self._call.read()
            if answer is grpc.aio.EOF:
                raise AssertionError(f"the call is over: {await self._call.code()}")
            value: str = answer.value
            return value

        return self._loop.run(read())

    def cancel(self) -> None:
        self._loop.loop.call_soon_threadsafe(self._call.cancel)
        self._loop.loop.call_soon_threadsafe(self._done.set)

    def end(self, timeout: float = 10) -> Outcome:
        async def wait() -> Outcome:
            if self._response_streams:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    while await self._call.read() is not grpc.aio.EOF:
                        pass
            code = await self._call.code()
            self._done.set()
            details = await self._call.details() or ""
            return Outcome(code, details, reason_of(await self._call.trailing_metadata()))

        return self._loop.run(wait(), timeout)
