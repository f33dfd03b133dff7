"""The interceptor of `grpc.server`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

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
from interceptors.server.call_pool import CallPlan, plan_of, refusing_handler, set_plan
from interceptors.server.grpc_logs import hide_metadata
from interceptors.server.handlers import behaviour_of, request_parser, wrapping_handler
from interceptors.server.sync_ending import end_call

__all__ = ["ServerInterceptor"]

Behaviour = Callable[..., Any]
Parse = Callable[[bytes], Any]


class ServerInterceptor(grpc.ServerInterceptor):
    """Verifies the credential of every call to a `grpc.server`, and ends streams whose credential ends.

        server = grpc.server(CallPool(32), interceptors=[ServerInterceptor(node)])

    Handlers get the caller from `current_caller()`. A handler may raise Refusal itself. Any other exception of a
    handler is logged, and the caller learns only that there was an internal error.

    It should be the first interceptor. One before it sees the calls that this one refuses, and unparsed requests.
    """

    def __init__(self, node: MeshNode) -> None:
        hide_metadata()
        self._node = node
        self._handlers: WrappedHandlers[_Wrapped] = WrappedHandlers(node, _wrap)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler, or refuses the call. Runs in grpc's only thread that takes calls: never waits."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        try:
            admission, wrapped = self._handlers.get(method, handler)
        except Refusal as refusal:
            return refusing_handler(refusal, partial(record_denied_method, self._node, method))
        try:
            undecided = admission.decide_by_metadata(handler_call_details.invocation_metadata)
        except Refusal as refusal:
            return refusing_handler(refusal, admission.record_refusal)
        set_plan(wrapped.plan if undecided is None else replace(wrapped.plan, undecided=undecided))
        return wrapped.handler


class _Wrapped(NamedTuple):
    handler: grpc.RpcMethodHandler[Any, Any]
    plan: CallPlan


def _wrap(admission: MethodAdmission, handler: Any) -> _Wrapped:
    behaviour = behaviour_of(handler)
    parse = request_parser(handler)
    if getattr(behaviour, "experimental_non_blocking", False):
        wrapped = _wrap_non_blocking(admission, behaviour, parse, streams=handler.request_streaming)
    elif handler.response_streaming:
        wrapped = _wrap_response_stream(admission, behaviour, parse, streams=handler.request_streaming)
    elif handler.request_streaming:
        wrapped = _wrap_request_stream(admission, behaviour, parse)
    else:
        wrapped = _wrap_unary(admission, behaviour, parse)
    if (pool := getattr(behaviour, "experimental_thread_pool", None)) is not None:
        wrapped.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return _Wrapped(wrapping_handler(handler, wrapped), plan_of(behaviour, admission.record_refusal))


def _wrap_unary(admission: MethodAdmission, behaviour: Behaviour, parse: Parse) -> Behaviour:
    admit = admission.admit

    def unary(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            verified = admit(context)
            if verified is not None:
                set_caller(verified)
            return behaviour(parse(request), context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _abort_after(error, admission, context)

    return unary


def _wrap_request_stream(admission: MethodAdmission, behaviour: Behaviour, parse: Parse) -> Behaviour:
    def request_stream(requests: Any, context: grpc.ServicerContext) -> Any:
        try:
            _open_stream(admission, context)
            return behaviour(_parsed(requests, parse, admission, context), context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _abort_after(error, admission, context)

    return request_stream


def _wrap_response_stream(
    admission: MethodAdmission, behaviour: Behaviour, parse: Parse, *, streams: bool
) -> Behaviour:
    def response_stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            _open_stream(admission, context)
            parsed = _parsed(request, parse, admission, context) if streams else parse(request)
            yield from behaviour(parsed, context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _abort_after(error, admission, context)

    return response_stream


def _wrap_non_blocking(admission: MethodAdmission, behaviour: Behaviour, parse: Parse, *, streams: bool) -> Behaviour:
    """Wraps a function that returns at once and sends its responses later (grpc's `experimental_non_blocking`)."""

    def non_blocking(request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
        try:
            _open_stream(admission, context)
            parsed = _parsed(request, parse, admission, context) if streams else parse(request)
            behaviour(parsed, context, send)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _abort_after(error, admission, context)

    non_blocking.experimental_non_blocking = True  # type: ignore[attr-defined]
    return non_blocking


def _parsed(
    requests: Iterator[bytes], parse: Parse, admission: MethodAdmission, context: grpc.ServicerContext
) -> Iterator[Any]:
    """Parses the requests of a stream. One that cannot be parsed ends the call, in whichever thread it is read."""

    def parse_or_end(request: bytes) -> Any:
        try:
            return parse(request)
        except Refusal as refusal:
            if context.is_active():
                admission.record_refusal(refusal, context.peer())
            end_call(context, refusal)
            return next(requests)  # raises what grpc raises when a call is over

    return map(parse_or_end, requests)


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
        admission.record_refusal(error, context.peer())
        context.set_trailing_metadata(error.trailing_metadata())
        context.abort(error.status, error.message)
    if type(error) in _UNWINDING and not error.args:
        raise error
    code, details = context.code(), context.details()  # type: ignore[attr-defined]  # the stubs are older
    status = status_after_error(code, details)
    if context.is_active():
        log_handler_error(admission.method, error, status[0])
    context.abort(*status)


# What grpc raises, without arguments, to unwind a handler: `context.abort` an Exception, and the request iterator of a
# call that is over an RpcError.
_UNWINDING: Final = frozenset({Exception, grpc.RpcError})
