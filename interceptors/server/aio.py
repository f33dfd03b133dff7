"""The interceptor of `grpc.aio.server`."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from interceptors.caller import reset_caller, set_caller
from interceptors.errors import Refusal
from interceptors.node.mesh_node import MeshNode
from interceptors.node.open_streams import OpenCall
from interceptors.server.admission import HIDDEN, MethodAdmission, WrappedHandlers, log_unexpected, refused_unruled
from interceptors.server.aio_ending import RunningHandler, ThreadedHandler
from interceptors.server.handlers import behaviour_of, like
from interceptors.verification.verifier import VerifiedCredential

__all__ = ["AioServerInterceptor"]

Admit = Callable[[Any], Awaitable[VerifiedCredential | None]]
Behaviour = Callable[..., Any]


class AioServerInterceptor(grpc.aio.ServerInterceptor):
    """Verifies the credential of every call to a `grpc.aio.server`, and ends streams whose credential ends.

        server = grpc.aio.server(interceptors=[AioServerInterceptor(node)])

    Coroutines, async generators, handlers that read and write by the context, and plain functions all work, and find
    the caller by `current_caller()`. A handler may raise Refusal itself. What else it raises is logged, and its caller
    learns no more than that there was an error.
    """

    def __init__(self, node: MeshNode) -> None:
        self._node = node
        self._handlers: WrappedHandlers[grpc.RpcMethodHandler[Any, Any]] = WrappedHandlers(node, _wrap)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler in one of its own kind."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        try:
            return self._handlers.get(method, handler)
        except Refusal as refusal:
            return _refuse_all(self._node, method, refusal)


def _wrap(gate: MethodAdmission, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    behaviour = behaviour_of(handler)
    streams = handler.request_streaming or handler.response_streaming
    admit = _admit_anybody if gate.rule.public else _admission(gate)
    wrapped: Behaviour
    if inspect.isasyncgenfunction(behaviour):
        wrapped = _async_generator(gate, admit, behaviour)
    elif inspect.iscoroutinefunction(behaviour):
        wrapped = (_stream_coroutine if streams else _coroutine)(gate, admit, behaviour)
    else:
        # grpc runs these in its thread pool, with a context that blocks.
        wrapped = (_generator if handler.response_streaming else _function)(gate, behaviour, streams=streams)
    return like(handler, wrapped)


def _admission(gate: MethodAdmission) -> Admit:
    rule, counts, asker = gate.rule, gate.counts, gate.node.asker
    check, flow = gate.node.verifier.check, gate.node.verifier.flow
    wall = time.time

    async def admit(context: Any) -> VerifiedCredential:
        now = wall()
        verified: Any = check(rule, context.invocation_metadata(), now)
        if verified.__class__ is str:
            verified = await asker.run_async(flow(rule, verified, now))
        set_caller(verified)
        counts.accepted += 1
        return verified  # type: ignore[no-any-return]

    return admit


async def _admit_anybody(context: Any) -> None:
    del context


def _coroutine(gate: MethodAdmission, admit: Admit, behaviour: Behaviour) -> Behaviour:
    async def unary(request: Any, context: Any) -> Any:
        try:
            await admit(context)
            return await behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            await _leave(gate, error, context)

    return unary


def _stream_coroutine(gate: MethodAdmission, admit: Admit, behaviour: Behaviour) -> Behaviour:
    async def stream(request: Any, context: Any) -> Any:
        try:
            verified = await admit(context)
            if verified is None:
                return await behaviour(request, context)
            with _held(gate, verified, context) as handler:
                return await behaviour(request, handler.context)
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            await _leave(gate, error, context)

    return stream


def _async_generator(gate: MethodAdmission, admit: Admit, behaviour: Behaviour) -> Behaviour:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            verified = await admit(context)
            if verified is None:
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
                return
            with _held(gate, verified, context) as handler:
                async with aclosing(behaviour(request, handler.context)) as responses:
                    async for response in responses:
                        if handler.over is not None:
                            await handler.end_if_over()
                        if handler.begun:
                            yield response
                        else:
                            handler.beginning = True
                            yield response
                            await handler.has_begun()
        except Exception as error:  # noqa: BLE001 - logged, and hidden from the caller
            await _leave(gate, error, context)

    return stream


@contextmanager
def _held(gate: MethodAdmission, verified: VerifiedCredential, context: Any) -> Iterator[RunningHandler]:
    """Keeps an open stream among those that end with their credential, as long as its handler runs."""
    handler = RunningHandler(context)
    call = gate.hold(verified, handler.end_soon, context.peer())
    handler.inside = True
    try:
        yield handler
    finally:
        handler.inside = False
        gate.release(call)


async def _leave(gate: MethodAdmission, error: Exception, context: Any) -> NoReturn:
    """Ends the call after an exception, by raising: with the refusal's status, the handler's own, or a mute one."""
    if isinstance(error, Refusal):
        gate.refused(error, context.peer())
        await context.abort(error.status, error.message, error.trailing_metadata())
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not (context.cancelled() or context.done()):
        log_unexpected(gate.method, error)
    code, details = _status_set_by_handler(context)
    await context.abort(code, details)
    raise error  # not reached: abort raises


def _status_set_by_handler(context: Any) -> tuple[Any, str]:
    code = context.code()
    if code in (None, 0, grpc.StatusCode.OK):
        return grpc.StatusCode.UNKNOWN, HIDDEN
    details = context.details()
    return _CODES.get(code, code), (details.decode() if isinstance(details, bytes) else details) or HIDDEN


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def _function(gate: MethodAdmission, behaviour: Behaviour, *, streams: bool) -> Behaviour:
    def unary(request: Any, context: Any) -> Any:
        with _in_thread(gate, context, streams=streams) as handler:
            return behaviour(request, handler.context)

    return unary


def _generator(gate: MethodAdmission, behaviour: Behaviour, *, streams: bool) -> Behaviour:
    def stream(request: Any, context: Any) -> Iterator[Any]:
        with _in_thread(gate, context, streams=streams) as handler:
            for response in behaviour(request, handler.context):
                handler.begin()
                yield response

    return stream


@contextmanager
def _in_thread(gate: MethodAdmission, context: Any, *, streams: bool) -> Iterator[ThreadedHandler]:
    """All of the above for a plain function, in the thread where it runs."""
    handler = ThreadedHandler(context)
    call: OpenCall | None = None
    token: Any = None
    try:
        if not gate.rule.public:
            now = time.time()
            verified: Any = gate.node.verifier.check(gate.rule, context.invocation_metadata(), now)
            if isinstance(verified, str):
                verified = gate.node.asker.run(gate.node.verifier.flow(gate.rule, verified, now))
            token = set_caller(verified)
            gate.counts.accepted += 1
            if streams:
                call = gate.hold(verified, handler.end_soon, context.peer())
        yield handler
    except Refusal as refusal:
        gate.refused(refusal, context.peer())
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.status, refusal.message)
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        if handler.aborted is not None:
            raise handler.aborted from error
        log_unexpected(gate.method, error)
        context.abort(grpc.StatusCode.UNKNOWN, HIDDEN)
    finally:
        handler.left()
        if call is not None:
            gate.release(call)
        if token is not None:
            # The thread serves other calls after this one. A generator that is thrown away half-way is closed by
            # whichever thread collects garbage, where nothing was set.
            with suppress(ValueError):
                reset_caller(token)


def _refuse_all(node: MeshNode, method: str, refusal: Refusal) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(request: Any, context: Any) -> None:
        del request
        refused_unruled(node, method, context.peer(), refusal)
        await context.abort(refusal.status, refusal.message, refusal.trailing_metadata())

    # Every kind can be refused by this one: the request is not even parsed.
    return grpc.stream_stream_rpc_method_handler(refuse)
