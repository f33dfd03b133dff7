"""The probe's handlers. The text of a request says what the handler does; see ANSWERS."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc

from interceptors import Reason, Refusal, current_caller
from tests.support.probe.backend import AioBackend, Backend
from tests.support.probe.schema import METHODS, SERVICE, StringValue

__all__ = ["ANSWERS", "SECRET", "Record", "aio_handlers", "sync_handlers"]

SECRET = "the password of the database is hunter2"

ANSWERS = """
who        the subject of the caller
claims     other attributes of the caller
session    the subject of the caller, and the session
anonymous  the subject of the caller, or "anonymous" if there is no caller
ask        the caller that the backend sees, by each kind of RPC
fail       raises an exception whose text contains SECRET
abort      ends the call with NOT_FOUND, by the context
code       sets NOT_FOUND by the context, then raises an exception whose text contains SECRET
lack       does what protoc generates for a method that the servicer lacks
refuse     raises a Refusal
hold       answers "held" (in a response stream), then waits until the call is over
flood      a stream of answers, as many and as fast as they can be sent
Any other text is answered unchanged.
"""


FLOOD = StringValue(value="x" * 100_000)


class Record:
    """What handlers record for tests: how many were held so far, and whether one noticed the end of its call."""

    def __init__(self) -> None:
        self.inside = 0
        self._lock = threading.Lock()
        self.noticed = threading.Event()
        self.release = threading.Event()

    def enter(self) -> None:
        """Counts a handler that is about to be held."""
        with self._lock:
            self.inside += 1


def _say(text: str) -> str:
    if text == "who":
        return current_caller().subject
    if text == "claims":
        caller = current_caller()
        return f"{caller.subject} {caller.client_id} {caller.session_id} {sorted(caller.scopes)} {caller.claims['jti']}"
    if text == "session":
        return f"{current_caller().subject} {current_caller().session_id}"
    if text == "anonymous":
        try:
            return current_caller().subject
        except LookupError:
            return "anonymous"
    return text


def _raise(text: str, context: Any) -> None:
    if text == "fail":
        raise ValueError(SECRET)
    if text == "refuse":
        raise Refusal(Reason.RATE_LIMITED, "the handler's own cause")
    if text == "lack":
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("Method not implemented!")
        raise NotImplementedError("Method not implemented!")
    if text == "code":
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("no such thing")
        raise ValueError(SECRET)


def _handlers(make: Callable[[str], Callable[..., Any]]) -> grpc.GenericRpcHandler:
    constructors: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    handlers = {
        name: constructors[kind](
            make(name),
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )
        for name, kind in METHODS.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def sync_handlers(record: Record, backend: Backend | None = None) -> grpc.GenericRpcHandler:
    """Plain functions and generators, for `grpc.server`, and for the threads of `grpc.aio.server`."""

    def say(text: str) -> str:
        return backend.caller_by_each_kind() if backend is not None and text == "ask" else _say(text)

    def act(text: str, context: Any) -> None:
        _raise(text, context)
        if text == "abort":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    def hold(context: Any) -> None:
        record.enter()
        # Blocked, like a handler that waits for something else: only a callback notices the end of the call.
        if context.add_callback(record.noticed.set) is False:
            record.noticed.set()
        record.release.wait(30)

    def hold_stream(context: Any) -> Iterator[StringValue]:
        try:
            yield StringValue(value="held")
        except GeneratorExit:
            record.noticed.set()  # the call was over before this was sent
            raise
        hold(context)

    def unary(request: StringValue, context: Any) -> StringValue:
        act(request.value, context)
        if request.value == "hold":
            hold(context)
        return StringValue(value=say(request.value))

    def server_stream(request: StringValue, context: Any) -> Iterator[StringValue]:
        act(request.value, context)
        if request.value == "hold":
            yield from hold_stream(context)
            return
        while request.value == "flood":
            yield FLOOD
        yield StringValue(value=say(request.value))
        yield StringValue(value="end")

    def client_stream(requests: Iterator[StringValue], context: Any) -> StringValue:
        said = []
        for request in requests:
            act(request.value, context)
            if request.value == "hold":
                hold(context)
            said.append(say(request.value))
        return StringValue(value=" ".join(said))

    def bidi(requests: Iterator[StringValue], context: Any) -> Iterator[StringValue]:
        for request in requests:
            act(request.value, context)
            if request.value == "hold":
                yield from hold_stream(context)
            yield StringValue(value=say(request.value))

    by_kind: dict[tuple[bool, bool], Callable[..., Any]] = {
        (False, False): unary,
        (False, True): server_stream,
        (True, False): client_stream,
        (True, True): bidi,
    }
    return _handlers(lambda name: by_kind[METHODS[name]])


def aio_handlers(
    record: Record, backend: AioBackend | None = None, *, by_context: bool = False
) -> grpc.GenericRpcHandler:
    """Coroutines and async generators, or with `by_context` coroutines that read and write by the context."""

    async def say(text: str) -> str:
        return await backend.caller_by_each_kind() if backend is not None and text == "ask" else _say(text)

    async def act(text: str, context: Any) -> None:
        _raise(text, context)
        if text == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    async def hold() -> None:
        record.enter()
        try:
            await asyncio.Event().wait()
        finally:
            record.noticed.set()

    async def hold_stream() -> AsyncIterator[StringValue]:
        try:
            yield StringValue(value="held")
        except (asyncio.CancelledError, GeneratorExit):
            record.noticed.set()  # the call was over before this was sent
            raise
        await hold()

    async def unary(request: StringValue, context: Any) -> StringValue:
        await act(request.value, context)
        if request.value == "hold":
            await hold()
        return StringValue(value=await say(request.value))

    async def server_stream(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        await act(request.value, context)
        if request.value == "hold":
            async for held in hold_stream():
                yield held
        while request.value == "flood":
            yield FLOOD
        yield StringValue(value=await say(request.value))
        yield StringValue(value="end")

    async def client_stream(requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        said = []
        async for request in requests:
            await act(request.value, context)
            if request.value == "hold":
                await hold()
            said.append(await say(request.value))
        return StringValue(value=" ".join(said))

    async def bidi(requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            await act(request.value, context)
            if request.value == "hold":
                async for held in hold_stream():
                    yield held
            yield StringValue(value=await say(request.value))

    async def server_stream_by_context(request: StringValue, context: Any) -> None:
        async for response in server_stream(request, context):
            await context.write(response)

    async def bidi_by_context(requests: AsyncIterator[StringValue], context: Any) -> None:
        del requests

        async def read() -> AsyncIterator[StringValue]:
            while (request := await context.read()) is not grpc.aio.EOF:
                yield request

        async for response in bidi(read(), context):
            await context.write(response)

    by_kind: dict[tuple[bool, bool], Any] = {
        (False, False): unary,
        (False, True): server_stream_by_context if by_context else server_stream,
        (True, False): client_stream,
        (True, True): bidi_by_context if by_context else bidi,
    }
    return _handlers(lambda name: by_kind[METHODS[name]])
