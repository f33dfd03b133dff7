"""The interceptor of `grpc.aio.server`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, NoReturn

import grpc
import grpc.aio

from interceptors.caller import reset_caller, set_caller
from interceptors.errors import Refusal
from interceptors.node.mesh_node import MeshNode
from interceptors.node.open_streams import OpenStream
from interceptors.server.admission import (
    INTERNAL_ERROR,
    MethodAdmission,
    WrappedHandlers,
    log_handler_error,
    record_denied_method,
    status_after_error,
)
from interceptors.server.aio_ending import StreamContext, ThreadedStreamContext
from interceptors.server.handlers import behaviour_of, handler_like
from interceptors.verification.verifier import VerifiedCredential

__all__ = ["AioServerInterceptor"]

Behaviour = Callable[..., Any]


class AioServerInterceptor(grpc.aio.ServerInterceptor):
    """Verifies the credential of every call to a `grpc.aio.server`, and ends streams whose credential ends.

        server = grpc.aio.server(interceptors=[AioServerInterceptor(node)])

    Coroutines, async generators, handlers that read and write by the context, and plain functions all work, and get the
    caller from `current_caller()`. A handler may raise Refusal itself. Any other exception of a handler is logged, and
    the caller learns only that there was an internal error.
    """

    def __init__(self, node: MeshNode) -> None:
        self._node = node
        self._handlers: WrappedHandlers[grpc.RpcMethodHandler[Any, Any]] = WrappedHandlers(node, _wrap)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler in one of the same kind."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        try:
            return self._handlers.get(method, handler)
        except Refusal as refusal:
            return _denying_handler(self._node, method, refusal)


def _wrap(admission: MethodAdmission, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    behaviour = behaviour_of(handler)
    streams = handler.request_streaming or handler.response_streaming
    wrapped: Behaviour
    if inspect.isasyncgenfunction(behaviour):
        wrapped = _wrap_async_generator(admission, behaviour)
    elif inspect.iscoroutinefunction(behaviour):
        wrapped = (_wrap_stream_coroutine if streams else _wrap_unary_coroutine)(admission, behaviour)
    else:
        # grpc runs these in its thread pool, with a context that blocks.
        wrapped = (_wrap_generator if handler.response_streaming else _wrap_function)(
            admission, behaviour, streams=streams
        )
    return handler_like(handler, wrapped)


def _wrap_unary_coroutine(admission: MethodAdmission, behaviour: Behaviour) -> Behaviour:
    admit = admission.admit_async

    async def unary(request: Any, context: Any) -> Any:
        try:
            verified = await admit(context)
            if verified is not None:
                set_caller(verified)
            return await behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            await _abort_after(error, admission, context)

    return unary


def _wrap_stream_coroutine(admission: MethodAdmission, behaviour: Behaviour) -> Behaviour:
    async def stream(request: Any, context: Any) -> Any:
        try:
            verified = await admission.admit_async(context)
            if verified is None:
                return await behaviour(request, context)
            set_caller(verified)
            with _OpenedStream(admission, verified, context) as stream_context:
                return await behaviour(request, stream_context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            await _abort_after(error, admission, context)

    return stream


def _wrap_async_generator(admission: MethodAdmission, behaviour: Behaviour) -> Behaviour:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            verified = await admission.admit_async(context)
            if verified is None:
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
                return
            set_caller(verified)
            with _OpenedStream(admission, verified, context) as stream_context:
                responses = behaviour(request, stream_context)
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

    def __init__(self, admission: MethodAdmission, verified: VerifiedCredential, context: Any) -> None:
        self._admission = admission
        self._context = StreamContext(context)
        self._stream = admission.open_stream(verified, context, self._context.end_soon)

    def __enter__(self) -> StreamContext:
        self._context.handler_runs = True
        return self._context

    def __exit__(self, *_: object) -> None:
        self._context.handler_runs = False
        self._admission.close_stream(self._stream)


async def _abort_after(error: Exception, admission: MethodAdmission, context: Any) -> NoReturn:
    """Ends the call after an exception, by raising: with a refusal's status, the handler's own, or UNKNOWN."""
    if isinstance(error, Refusal):
        admission.record_refusal(error, context)
        await context.abort(error.status, error.message, error.trailing_metadata())
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not (context.cancelled() or context.done()):
        log_handler_error(admission.method, error)
    await context.abort(*status_after_error(context.code(), context.details()))
    raise error  # not reached: abort raises


def _wrap_function(admission: MethodAdmission, behaviour: Behaviour, *, streams: bool) -> Behaviour:
    def unary(request: Any, context: Any) -> Any:
        with _admitted_in_thread(admission, context, streams=streams) as stream_context:
            return behaviour(request, stream_context)

    return unary


def _wrap_generator(admission: MethodAdmission, behaviour: Behaviour, *, streams: bool) -> Behaviour:
    def stream(request: Any, context: Any) -> Iterator[Any]:
        with _admitted_in_thread(admission, context, streams=streams) as stream_context:
            for response in behaviour(request, stream_context):
                stream_context.begin()
                yield response

    return stream


@contextmanager
def _admitted_in_thread(admission: MethodAdmission, context: Any, *, streams: bool) -> Iterator[ThreadedStreamContext]:
    """Admits a call that a plain function serves in a thread of the pool, and ends the call after an exception.

    Gives the context for the function.
    """
    stream_context = ThreadedStreamContext(context)
    stream: OpenStream | None = None
    token: Any = None
    try:
        verified = admission.admit(context)
        if verified is not None:
            token = set_caller(verified)
            if streams:
                stream = admission.open_stream(verified, context, stream_context.end_soon)
        yield stream_context
    except Refusal as refusal:
        admission.record_refusal(refusal, context)
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.status, refusal.message)
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        if stream_context.aborted is not None:
            raise stream_context.aborted from error
        log_handler_error(admission.method, error)
        # This context does not tell which status the handler has set.
        context.abort(grpc.StatusCode.UNKNOWN, INTERNAL_ERROR)
    finally:
        stream_context.finish()
        if stream is not None:
            admission.close_stream(stream)
        if token is not None:
            # The thread serves other calls after this one. An abandoned generator is closed by the thread that collects
            # garbage, where the caller was not set.
            with suppress(ValueError):
                reset_caller(token)


def _denying_handler(node: MeshNode, method: str, refusal: Refusal) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler that refuses every call of a method without a valid rule."""

    async def deny(request: Any, context: Any) -> None:
        del request
        record_denied_method(node, method, refusal, context.peer())
        await context.abort(refusal.status, refusal.message, refusal.trailing_metadata())

    # This kind of handler can refuse calls of every kind, since the request is not even parsed.
    return grpc.stream_stream_rpc_method_handler(deny)
