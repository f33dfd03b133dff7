"""The interceptor of `grpc.server`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

import grpc

from interceptors.caller import set_caller
from interceptors.errors import Refusal
from interceptors.node.mesh_node import MeshNode
from interceptors.server.admission import HIDDEN, MethodAdmission, WrappedHandlers, log_unexpected, refused_unruled
from interceptors.server.handlers import behaviour_of, like
from interceptors.server.sync_ending import end_call
from interceptors.verification.verifier import VerifiedCredential

__all__ = ["ServerInterceptor"]

Admit = Callable[[grpc.ServicerContext], VerifiedCredential | None]


class ServerInterceptor(grpc.ServerInterceptor):
    """Verifies the credential of every call to a `grpc.server`, and ends streams whose credential ends.

        server = grpc.server(ThreadPoolExecutor(), interceptors=[ServerInterceptor(node)])

    Handlers find the caller by `current_caller()`. A handler may raise Refusal itself. What else it raises is logged,
    and its caller learns no more than that there was an error.
    """

    def __init__(self, node: MeshNode) -> None:
        self._node = node
        self._handlers: WrappedHandlers[grpc.RpcMethodHandler[Any, Any]] = WrappedHandlers(node, _wrap)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler. The work is done in the handler's thread: here the server holds a lock."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        try:
            return self._handlers.get(method, handler)
        except Refusal as refusal:
            return _refuse_all(self._node, method, refusal)


def _wrap(gate: MethodAdmission, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    behaviour = behaviour_of(handler)
    if getattr(behaviour, "experimental_non_blocking", False):
        raise TypeError(f"{gate.method}: experimental_non_blocking handlers are not supported")
    admit = _admit_anybody if gate.rule.public else _admission(gate)
    wrap = _streaming_response if handler.response_streaming else _unary_response
    return like(handler, wrap(gate, admit, behaviour, streaming=handler.request_streaming))


def _admission(gate: MethodAdmission) -> Admit:
    rule, counts, asker = gate.rule, gate.counts, gate.node.asker
    check, flow = gate.node.verifier.check, gate.node.verifier.flow
    wall = time.time

    def admit(context: grpc.ServicerContext) -> VerifiedCredential:
        now = wall()
        verified = check(rule, context.invocation_metadata(), now)
        if verified.__class__ is str:
            verified = asker.run(flow(rule, verified, now))
        set_caller(verified)  # type: ignore[arg-type]  # no longer a str: this runs for every call, so no isinstance
        counts.accepted += 1
        return verified  # type: ignore[return-value]

    return admit


def _admit_anybody(context: grpc.ServicerContext) -> None:
    del context


def _unary_response(
    gate: MethodAdmission, admit: Admit, behaviour: Callable[..., Any], *, streaming: bool
) -> Callable[..., Any]:
    def unary(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            admit(context)
            return behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _leave(gate, error, context)

    def request_stream(requests: Any, context: grpc.ServicerContext) -> Any:
        try:
            _hold(gate, admit(context), context)
            return behaviour(requests, context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _leave(gate, error, context)

    return request_stream if streaming else unary


def _streaming_response(
    gate: MethodAdmission, admit: Admit, behaviour: Callable[..., Any], *, streaming: bool
) -> Callable[..., Any]:
    del streaming

    def response_stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            _hold(gate, admit(context), context)
            yield from behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            _leave(gate, error, context)

    return response_stream


def _hold(gate: MethodAdmission, verified: VerifiedCredential | None, context: grpc.ServicerContext) -> None:
    if verified is None:
        return
    call = gate.hold(verified, lambda refusal: end_call(context, refusal), context.peer())
    # Not when the handler returns, but when the call is over: a handler may be blocked long after that.
    if not context.add_callback(lambda: gate.release(call)):
        gate.release(call)


def _leave(gate: MethodAdmission, error: Exception, context: grpc.ServicerContext) -> NoReturn:
    """Ends the call after an exception, by raising: with the refusal's status, the handler's own, or a mute one."""
    if isinstance(error, Refusal):
        gate.refused(error, context.peer())
        context.set_trailing_metadata(error.trailing_metadata())
        context.abort(error.status, error.message)
    if type(error) in _ENDED and not error.args:
        raise error  # from context.abort, or from the request iterator of a call that is over
    if context.is_active():
        log_unexpected(gate.method, error)
    code, details = context.code(), context.details()  # type: ignore[attr-defined]  # the stubs are older
    if code is None or code is grpc.StatusCode.OK:
        code, details = grpc.StatusCode.UNKNOWN, HIDDEN
    context.abort(code, details.decode() if isinstance(details, bytes) else details or HIDDEN)


# What grpc raises, bare, to unwind a handler.
_ENDED: Final = frozenset({Exception, grpc.RpcError})


def _refuse_all(node: MeshNode, method: str, refusal: Refusal) -> grpc.RpcMethodHandler[Any, Any]:
    def refuse(request: Any, context: grpc.ServicerContext) -> NoReturn:
        del request
        refused_unruled(node, method, context.peer(), refusal)
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.status, refusal.message)

    # Every kind can be refused by this one: the request is not even parsed.
    return grpc.stream_stream_rpc_method_handler(refuse)
