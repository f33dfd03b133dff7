"""The interceptor of `grpc.server`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NoReturn

import grpc

from interceptors.caller import set_caller
from interceptors.errors import Refusal
from interceptors.node.mesh_node import MeshNode
from interceptors.server.admission import (
    MethodAdmission,
    WrappedHandlers,
    log_handler_error,
    record_denied_method,
    status_after_error,
)
from interceptors.server.handlers import behaviour_of, handler_like
from interceptors.server.sync_ending import end_call

__all__ = ["ServerInterceptor"]


class ServerInterceptor(grpc.ServerInterceptor):
    """Verifies the credential of every call to a `grpc.server`, and ends streams whose credential ends.

        server = grpc.server(ThreadPoolExecutor(), interceptors=[ServerInterceptor(node)])

    Handlers get the caller from `current_caller()`. A handler may raise Refusal itself. Any other exception of a
    handler is logged, and the caller learns only that there was an internal error.
    """

    def __init__(self, node: MeshNode) -> None:
        self._node = node
        self._handlers: WrappedHandlers[grpc.RpcMethodHandler[Any, Any]] = WrappedHandlers(node, _wrap)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler. The call is verified in the handler's thread: here the server holds a lock."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        try:
            return self._handlers.get(method, handler)
        except Refusal as refusal:
            return _denying_handler(self._node, method, refusal)


def _wrap(admission: MethodAdmission, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    behaviour = behaviour_of(handler)
    if getattr(behaviour, "experimental_non_blocking", False):
        raise TypeError(f"{admission.method}: experimental_non_blocking handlers are not supported")
    if handler.response_streaming:
        wrapped = _wrap_response_stream(admission, behaviour)
    elif handler.request_streaming:
        wrapped = _wrap_request_stream(admission, behaviour)
    else:
        wrapped = _wrap_unary(admission, behaviour)
    return handler_like(handler, wrapped)


def _wrap_unary(admission: MethodAdmission, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    admit = admission.admit

    def unary(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            verified = admit(context)
            if verified is not None:
                set_caller(verified)
            return behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _abort_after(error, admission, context)

    return unary


def _wrap_request_stream(admission: MethodAdmission, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    def request_stream(requests: Any, context: grpc.ServicerContext) -> Any:
        try:
            _open_stream(admission, context)
            return behaviour(requests, context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _abort_after(error, admission, context)

    return request_stream


def _wrap_response_stream(admission: MethodAdmission, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    def response_stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            _open_stream(admission, context)
            yield from behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _abort_after(error, admission, context)

    return response_stream


def _open_stream(admission: MethodAdmission, context: grpc.ServicerContext) -> None:
    """Admits a stream, and has it ended with its credential."""
    verified = admission.admit(context)
    if verified is None:
        return
    set_caller(verified)
    stream = admission.open_stream(verified, context, partial(end_call, context))
    # The stream is open until its call is over. A handler may return much later: it may be blocked.
    close_stream = partial(admission.close_stream, stream)
    if not context.add_callback(close_stream):
        close_stream()


def _abort_after(error: Exception, admission: MethodAdmission, context: grpc.ServicerContext) -> NoReturn:
    """Ends the call after an exception, by raising: with a refusal's status, the handler's own, or UNKNOWN."""
    if isinstance(error, Refusal):
        admission.record_refusal(error, context)
        context.set_trailing_metadata(error.trailing_metadata())
        context.abort(error.status, error.message)
    if type(error) in _UNWINDING and not error.args:
        raise error
    if context.is_active():
        log_handler_error(admission.method, error)
    code, details = context.code(), context.details()  # type: ignore[attr-defined]  # the stubs are older
    context.abort(*status_after_error(code, details))


# What grpc raises, without arguments, to unwind a handler: `context.abort` an Exception, and the request iterator of a
# call that is over an RpcError.
_UNWINDING: Final = frozenset({Exception, grpc.RpcError})


def _denying_handler(node: MeshNode, method: str, refusal: Refusal) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler that refuses every call of a method without a valid rule."""

    def deny(request: Any, context: grpc.ServicerContext) -> NoReturn:
        del request
        record_denied_method(node, method, refusal, context.peer())
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.status, refusal.message)

    # This kind of handler can refuse calls of every kind, since the request is not even parsed.
    return grpc.stream_stream_rpc_method_handler(deny)
