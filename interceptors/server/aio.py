"""The interceptor of `grpc.aio.server`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Self

import grpc
import grpc.aio

from interceptors.caller import reset_caller, set_caller
from interceptors.errors import Refusal
from interceptors.node.mesh_node import MeshNode
from interceptors.node.open_streams import OpenStream
from interceptors.server.admission import (
    MESSAGE_TIMEOUT_SECONDS,
    MethodAdmission,
    WrappedHandlers,
    log_handler_error,
    record_denied_method,
    status_after_error,
)
from interceptors.server.aio_ending import ParsingContext, StreamContext, ThreadedStreamContext
from interceptors.server.aio_waiting import MessageWaits
from interceptors.server.grpc_logs import hide_metadata
from interceptors.server.handlers import behaviour_of, request_parser, wrapping_handler
from interceptors.verification.verifier import VerifiedCredential

__all__ = ["AioServerInterceptor"]

Behaviour = Callable[..., Any]


class AioServerInterceptor(grpc.aio.ServerInterceptor):
    """Verifies the credential of every call to a `grpc.aio.server`, and ends streams whose credential ends.

        server = grpc.aio.server(interceptors=[AioServerInterceptor(node)])

    Coroutines, async generators, handlers that read and write by the context, and plain functions all work, and get the
    caller from `current_caller()`. A handler may raise Refusal itself. Any other exception of a handler is logged, and
    the caller learns only that there was an internal error.

    It should be the first interceptor. One before it sees the calls that this one refuses, and unparsed requests.

    message_timeout  seconds; a call of a method with one request ends with REQUEST_MISSING if that is awaited longer.
                     Not for plain functions: grpc does not run them before the request is there
    """

    def __init__(self, node: MeshNode, *, message_timeout: float = MESSAGE_TIMEOUT_SECONDS) -> None:
        hide_metadata()
        self._node = node
        self._waits = MessageWaits(message_timeout)
        self._handlers: WrappedHandlers[grpc.RpcMethodHandler[Any, Any]] = WrappedHandlers(node, self._wrap)

    @property
    def awaited(self) -> int:
        """How many calls wait for their request message."""
        return len(self._waits)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler in one of the same kind, or refuses the call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        try:
            admission, wrapped = self._handlers.get(method, handler)
        except Refusal as refusal:
            return _denying_handler(refusal, partial(record_denied_method, self._node, method))
        if _runs_in_thread(behaviour_of(handler)):
            metadata = handler_call_details.invocation_metadata
            try:
                if admission.decide_by_metadata(metadata) is not None:
                    await admission.look_up(metadata)  # here, since the function would block a thread meanwhile
            except Refusal as refusal:
                return _denying_handler(refusal, admission.record_refusal)
        return wrapped

    def _wrap(self, admission: MethodAdmission, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        method = _Method(
            admission,
            self._waits,
            behaviour_of(handler),
            request_parser(handler),
            handler.request_streaming,
            handler.response_streaming,
        )
        if _runs_in_thread(method.behaviour):
            return wrapping_handler(
                handler, (_wrap_generator if handler.response_streaming else _wrap_function)(method)
            )
        # Also for a method with one request, grpc is given a handler of a request stream: so the handler runs, and can
        # refuse the call, before the request is there. For the client there is no difference.
        make_handler = grpc.stream_stream_rpc_method_handler
        if not handler.response_streaming:
            make_handler = grpc.stream_unary_rpc_method_handler
        wrap = _wrap_stream_coroutine if method.streams else _wrap_unary_coroutine
        if inspect.isasyncgenfunction(method.behaviour):
            wrap = _wrap_async_generator
        return make_handler(wrap(method), None, handler.response_serializer)


def _runs_in_thread(behaviour: Behaviour) -> bool:
    """Whether grpc runs a function in its thread pool, with a context that blocks."""
    return not (inspect.isasyncgenfunction(behaviour) or inspect.iscoroutinefunction(behaviour))


async def _admit(admission: MethodAdmission, metadata: Any) -> VerifiedCredential | None:
    """Decides on a call whose request is there. Returns its credential; None for a public method. Raises Refusal."""
    if admission.rule.public:
        return None
    credential = admission.read_credential(metadata)
    return admission.admit_cached(credential) or await admission.admit_async(credential)


@dataclass(frozen=True, slots=True)
class _Method:
    """A method of the server, and how its calls are admitted and their requests parsed."""

    admission: MethodAdmission
    waits: MessageWaits
    behaviour: Behaviour
    parse: Callable[[bytes], Any]
    request_streaming: bool
    response_streaming: bool

    @property
    def streams(self) -> bool:
        return self.request_streaming or self.response_streaming

    async def receive(self, requests: Any, context: Any) -> Any:
        """Returns the unparsed request when it is there; the iterator of requests of a request stream at once."""
        return requests if self.request_streaming else await self.waits.read(context, self.admission)

    def parsed(self, request: Any) -> Any:
        """The request, or the iterator of requests, as a coroutine or an async generator takes it."""
        return _ParsedRequests(request, self.parse) if self.request_streaming else self.parse(request)

    def parsed_in_thread(self, request: Any) -> Any:
        """The request, or the iterator of requests, as a plain function takes it."""
        return map(self.parse, request) if self.request_streaming else self.parse(request)


class _ParsedRequests:
    """The requests of a stream, parsed."""

    __slots__ = ("_iterator", "_parse", "_requests")

    def __init__(self, requests: Any, parse: Callable[[bytes], Any]) -> None:
        self._requests = requests
        self._iterator: AsyncIterator[bytes] | None = None  # made when needed: Python warns if it is never awaited
        self._parse = parse

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._iterator is None:
            self._iterator = aiter(self._requests)
        return self._parse(await anext(self._iterator))


def _wrap_unary_coroutine(method: _Method) -> Behaviour:
    admission, waits, behaviour, parse = method.admission, method.waits, method.behaviour, method.parse
    public = admission.rule.public

    async def unary(_requests: Any, context: Any) -> Any:
        try:
            metadata = context.invocation_metadata()
            admission.decide_by_metadata(metadata)
            request = await waits.read(context, admission)
            if not public:
                # As `_admit`, whose coroutine would cost more than all of this.
                credential = admission.read_credential(metadata)
                set_caller(admission.admit_cached(credential) or await admission.admit_async(credential))
            return await behaviour(parse(request), context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            await _abort_after(error, admission, context)

    return unary


def _wrap_stream_coroutine(method: _Method) -> Behaviour:
    admission, behaviour = method.admission, method.behaviour

    async def stream(requests: Any, context: Any) -> Any:
        try:
            metadata = context.invocation_metadata()
            admission.decide_by_metadata(metadata)
            request = await method.receive(requests, context)
            verified = await _admit(admission, metadata)
            if verified is None:
                return await behaviour(method.parsed(request), ParsingContext(context, method.parse))
            set_caller(verified)
            with _OpenedStream(method, verified, context) as stream_context:
                return await behaviour(method.parsed(request), stream_context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            await _abort_after(error, admission, context)

    return stream


def _wrap_async_generator(method: _Method) -> Behaviour:
    admission, behaviour = method.admission, method.behaviour

    async def stream(requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            metadata = context.invocation_metadata()
            admission.decide_by_metadata(metadata)
            request = await method.receive(requests, context)
            verified = await _admit(admission, metadata)
            if verified is None:
                parsing_context = ParsingContext(context, method.parse)
                async with aclosing(behaviour(method.parsed(request), parsing_context)) as responses:
                    async for response in responses:
                        yield response
                return
            set_caller(verified)
            with _OpenedStream(method, verified, context) as stream_context:
                responses = behaviour(method.parsed(request), stream_context)
                try:
                    async for response in responses:
                        if stream_context.ended_by is not None:
                            await stream_context.abort_if_ended()
                        if stream_context.first_response_sent:
                            yield response
                        else:
                            stream_context.first_response_in_flight = True
                            yield response
                            await stream_context.note_first_response_sent()
                finally:
                    await responses.aclose()
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            await _abort_after(error, admission, context)

    return stream


class _OpenedStream:
    """Keeps a stream among the node's open ones while its handler runs. Gives the context for the handler."""

    __slots__ = ("_admission", "_context", "_stream")

    def __init__(self, method: _Method, verified: VerifiedCredential, context: Any) -> None:
        self._admission = method.admission
        self._context = StreamContext(context, method.parse)
        self._stream = method.admission.open_stream(verified, context, self._context.end_soon)

    def __enter__(self) -> StreamContext:
        self._context.handler_runs = True
        return self._context

    def __exit__(self, *_: object) -> None:
        self._context.handler_runs = False
        self._admission.close_stream(self._stream)


async def _abort_after(error: Exception, admission: MethodAdmission, context: Any) -> NoReturn:
    """Ends the call after an exception, by raising: with a refusal's status, the handler's own, or UNKNOWN."""
    if isinstance(error, Refusal):
        admission.record_refusal(error, context.peer())
        await context.abort(error.status, error.message, error.trailing_metadata())
    if isinstance(error, grpc.aio.AbortError):
        raise error
    status = status_after_error(context.code(), context.details())
    if not (context.cancelled() or context.done()):
        log_handler_error(admission.method, error, status[0])
    await context.abort(*status)
    raise error  # not reached: abort raises


def _wrap_function(method: _Method) -> Behaviour:
    behaviour = method.behaviour

    def unary(request: Any, context: Any) -> Any:
        with _admitted_in_thread(method, context) as stream_context:
            return behaviour(method.parsed_in_thread(request), stream_context)

    return unary


def _wrap_generator(method: _Method) -> Behaviour:
    behaviour = method.behaviour

    def stream(request: Any, context: Any) -> Iterator[Any]:
        with _admitted_in_thread(method, context) as stream_context:
            for response in behaviour(method.parsed_in_thread(request), stream_context):
                stream_context.begin()
                yield response

    return stream


@contextmanager
def _admitted_in_thread(method: _Method, context: Any) -> Iterator[ThreadedStreamContext]:
    """Admits a call that a plain function serves in a thread of the pool, and ends the call after an exception.

    Gives the context for the function.
    """
    admission = method.admission
    stream_context = ThreadedStreamContext(context)
    stream: OpenStream | None = None
    token: Any = None
    try:
        verified = admission.admit(context)
        if verified is not None:
            token = set_caller(verified)
            if method.streams:
                stream = admission.open_stream(verified, context, stream_context.end_soon)
        yield stream_context
    except Refusal as refusal:
        admission.record_refusal(refusal, context.peer())
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.status, refusal.message)
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        if stream_context.aborted is not None:
            raise stream_context.aborted from error
        status = status_after_error(stream_context.code, stream_context.details)
        log_handler_error(admission.method, error, status[0])
        context.abort(*status)
    finally:
        stream_context.finish()
        if stream is not None:
            admission.close_stream(stream)
        if token is not None:
            # The thread serves other calls after this one. An abandoned generator is closed by the thread that collects
            # garbage, where the caller was not set.
            with suppress(ValueError):
                reset_caller(token)


def _denying_handler(refusal: Refusal, record: Callable[[Refusal, str], None]) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler that refuses one call. record: counts the refusal and writes it to the audit trail."""

    async def deny(requests: Any, context: Any) -> None:
        del requests
        record(refusal, context.peer())
        await context.abort(refusal.status, refusal.message, refusal.trailing_metadata())

    # This kind of handler can refuse calls of every kind, since no request is received.
    return grpc.stream_stream_rpc_method_handler(deny)
