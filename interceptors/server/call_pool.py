"""The threads of a sync server. A call gets a thread when its request is there, not while the request is awaited.

With a plain ThreadPoolExecutor, grpc blocks a thread of the pool until the request comes. As many callers as there are
threads, who send no request, would stop the server, since the wait begins before a credential can be checked.

grpc hands each call to the pool as one function with arguments. Which ones is not public, so this module checks for it
when it is imported, and otherwise lets grpc wait in its own way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it has no stubs

from interceptors.errors import Reason, Refusal
from interceptors.server.admission import MESSAGE_TIMEOUT_SECONDS, Undecided
from interceptors.server.sync_ending import CAN_END_WITH_STATUS, end_rpc
from interceptors.verification.lookups import LOOKUP_TIMEOUT_SECONDS

__all__ = ["CAN_AWAIT_MESSAGES", "CallPlan", "CallPool", "never_waits", "plan_of", "refusing_handler", "set_plan"]

_log: Final = logging.getLogger("credmesh.server")

_EMPTY_FLAGS: Final = 0
_REFUSAL: Final = "credmesh_refusal"
_NEVER_WAITS: Final = "credmesh_never_waits"

_grpc_server: Final[Any] = _server
_RUN_CALL_ARGUMENTS: Final = (
    "rpc_event",
    "state",
    "behavior",
    "argument_thunk",
    "request_deserializer",
    "response_serializer",
)


def _has_known_internals() -> bool:
    """Whether grpc submits `state.context.run, serve, *_RUN_CALL_ARGUMENTS` and waits by the thunk `unary_request`."""
    try:
        functions = (_grpc_server._unary_response_in_pool, _grpc_server._stream_response_in_pool)
        return (
            CAN_END_WITH_STATUS
            and all(
                serve.__code__.co_varnames[: serve.__code__.co_argcount] == _RUN_CALL_ARGUMENTS for serve in functions
            )
            and "unary_request" in {getattr(c, "co_name", "") for c in _grpc_server._unary_request.__code__.co_consts}
            and callable(_grpc_server._receive_message)
            and callable(_grpc_server._is_rpc_state_active)
            and hasattr(_grpc_server._RPCState(), "request")
            and hasattr(cygrpc, "ReceiveMessageOperation")
        )
    except AttributeError:
        return False


CAN_AWAIT_MESSAGES: Final = _has_known_internals()
"""Whether a CallPool can await messages without a thread. If not, it is a plain pool of threads."""

if not CAN_AWAIT_MESSAGES:  # pragma: no cover - depends on the installed grpcio
    _log.warning(
        "grpcio %s has other internals than this version of credmesh expects: each call occupies a thread while its "
        "message is awaited; install the grpcio version that credmesh was tested with",
        grpc.__version__,
    )


def never_waits(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Marks the function of a method that never blocks: a CallPool runs it in the server's own thread, at once."""
    setattr(behaviour, _NEVER_WAITS, True)
    return behaviour


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What a CallPool has to know of a call.

    record_refusal  counts a refusal and writes it to the audit trail, given the caller's address
    never_waits     whether the function that serves it never blocks
    undecided       makes the decision, if that needs a lookup
    """

    record_refusal: Callable[[Refusal, str], None]
    never_waits: bool = False
    undecided: Undecided | None = None


def plan_of(behaviour: Callable[..., Any], record_refusal: Callable[[Refusal, str], None]) -> CallPlan:
    """Returns the plan of the calls that a method's function serves."""
    return CallPlan(record_refusal, never_waits=getattr(behaviour, _NEVER_WAITS, False))


_plan: Final[ContextVar[CallPlan]] = ContextVar("credmesh_call_plan")

set_plan: Final = _plan.set
"""Sets the plan of a call, in the call's context. An interceptor before credmesh's may replace handlers, not this."""


def refusing_handler(refusal: Refusal, record: Callable[[Refusal, str], None]) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler that refuses the call in whose context this runs. A CallPool needs no thread for that.

    Unless an interceptor before credmesh's has wrapped it: that one then sees the refusal, and it takes a thread.

    record: counts a refusal and writes it to the audit trail, given the caller's address
    """

    def deny(request: Any, context: grpc.ServicerContext) -> NoReturn:
        del request
        record(refusal, context.peer())
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.status, refusal.message)

    setattr(deny, _REFUSAL, refusal)
    set_plan(CallPlan(record))
    # This kind of handler can refuse calls of every kind, since no request is received.
    return grpc.stream_stream_rpc_method_handler(deny)


@dataclass(slots=True, eq=False)  # not frozen, which would make it three times as expensive
class _Call:
    """A call as grpc submits it."""

    run: Callable[..., Any]
    serve: Callable[..., None]
    rpc_event: Any
    state: Any
    behaviour: Callable[..., Any]
    argument: Callable[[], Any]
    deserializer: Any
    serializer: Any

    @property
    def plan(self) -> CallPlan | None:
        """What credmesh's interceptor has set; None on a server without it."""
        plan: CallPlan | None = self.state.context.get(_plan)
        return plan

    @property
    def never_waits(self) -> bool:
        plan = self.plan
        return plan is not None and plan.never_waits

    @property
    def awaits_message(self) -> bool:
        """Whether the call has one request message, for which grpc would block."""
        return getattr(self.argument, "__name__", "") == "unary_request"

    def serve_with(self, argument: Callable[[], Any]) -> None:
        """Serves the call with its request, or with the iterator of its requests."""
        self.run(self.serve, self.rpc_event, self.state, self.behaviour, argument, self.deserializer, self.serializer)

    def refuse(self, refusal: Refusal) -> None:
        """Ends the call with a refusal, which is counted and logged before the caller has it."""
        if not _grpc_server._is_rpc_state_active(self.state):
            return
        plan = self.plan
        if plan is not None:
            plan.record_refusal(refusal, self.rpc_event.call.peer().decode())
        end_rpc(self.state, self.rpc_event, refusal)


class CallPool(ThreadPoolExecutor):
    """The threads of a `grpc.server`.

        server = grpc.server(CallPool(32), interceptors=[ServerInterceptor(node)])

    workers          how many calls are served at once. All threads start at once, so a machine that has no threads left
                     later does not stop the server. RuntimeError if they cannot start
    message_timeout  seconds; a call whose first request message is awaited longer ends with REQUEST_MISSING

    At most half of the workers wait for the first message of a request stream; further streams that wait are refused
    with RATE_LIMITED. Calls with one request message wait without a worker.
    """

    def __init__(
        self, workers: int = 32, *, message_timeout: float = MESSAGE_TIMEOUT_SECONDS, thread_name_prefix: str = "call"
    ) -> None:
        super().__init__(workers, thread_name_prefix=thread_name_prefix)
        missing = Refusal(Reason.REQUEST_MISSING, f"no request message came within {message_timeout:g} s")
        self._awaiting = _BoundedWaits("credmesh-messages", message_timeout, missing)
        no_answer = Refusal(Reason.MESH_STALE, "etcd or the auth service did not answer the lookup in time")
        self._lookups = _BoundedWaits("credmesh-lookup-waits", LOOKUP_TIMEOUT_SECONDS, no_answer)
        self._max_awaiting_streams = max(1, workers // 2)
        self._awaiting_streams = 0
        self._lock = threading.Lock()
        # ThreadPoolExecutor starts a thread for each submitted function as long as no thread is idle.
        all_started = threading.Event()
        try:
            for _ in range(workers):
                super().submit(all_started.wait)
        except RuntimeError:
            self.shutdown(wait=False)
            raise
        finally:
            all_started.set()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs a function in a thread. A call of a grpc.server gets a thread when its message is there."""
        call = _as_call(function, args) if CAN_AWAIT_MESSAGES else None
        if call is None:
            return super().submit(function, *args, **kwargs)
        refusal = getattr(call.behaviour, _REFUSAL, None)
        if refusal is not None:
            call.refuse(refusal)
            return _DONE
        done: Future[Any] = Future()
        plan = call.plan
        if plan is None or plan.undecided is None:
            self._begin(call, done)
        else:
            self._lookups.add(call)
            plan.undecided(partial(self._begin_if_admitted, call, done))
        return done

    def _begin_if_admitted(self, call: _Call, done: Future[Any], refusal: Refusal | None) -> None:
        self._lookups.remove(call)
        if refusal is not None:
            call.refuse(refusal)
            done.set_result(None)
        else:
            self._begin(call, done)

    def _begin(self, call: _Call, done: Future[Any]) -> None:
        if call.awaits_message:
            self._await_message(call, done)
        elif call.never_waits:
            _serve(call, call.argument, done)
        else:
            self._submit_call(call, lambda: _Requests(self, call, call.argument()), done)

    @property
    def awaited(self) -> int:
        """How many calls wait for their first request message."""
        return len(self._awaiting)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads when they are idle."""
        self._awaiting.stop()
        self._lookups.stop()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _submit_call(self, call: _Call, argument: Callable[[], Any], done: Future[Any]) -> None:
        try:
            super().submit(_serve, call, argument, done)
        except RuntimeError as error:  # after `shutdown`; it would end grpc's only thread that takes calls
            call.refuse(Refusal(Reason.MESH_NOT_READY, f"the server stops: {error}"))
            done.set_result(None)

    def _await_message(self, call: _Call, done: Future[Any]) -> None:
        """Lets grpc receive the message, and serves the call when it is there. Returns at once."""
        state = call.state
        receive = _grpc_server._receive_message(state, call.rpc_event.call, call.deserializer)

        def receive_and_serve(event: Any) -> Any:
            self._awaiting.remove(call)
            finished = receive(event)
            request = state.request
            if request is None:
                self._end_without_message(call)
                done.set_result(None)
            else:
                state.request = None
                if call.never_waits:
                    _serve(call, lambda: request, done)
                else:
                    self._submit_call(call, lambda: request, done)
            return finished

        with state.condition:
            if not _grpc_server._is_rpc_state_active(state):  # the call ended during a lookup
                done.set_result(None)
                return
            self._awaiting.add(call)
            call.rpc_event.call.start_server_batch((cygrpc.ReceiveMessageOperation(_EMPTY_FLAGS),), receive_and_serve)
            state.due.add(_grpc_server._RECEIVE_MESSAGE_TOKEN)

    def _end_without_message(self, call: _Call) -> None:
        """Ends a call whose client closed it without a message, as grpc does. Nothing happens if the call is over."""
        state = call.state
        with state.condition:
            if _grpc_server._is_rpc_state_active(state):
                _grpc_server._abort(
                    state,
                    call.rpc_event.call,
                    cygrpc.StatusCode.unimplemented,
                    b"the method needs exactly one request message",
                )

    def await_first_of_stream(self, call: _Call, requests: Iterator[Any]) -> Any:
        """Returns the first message of a request stream. Blocks a worker, but not more than half of them."""
        with self._lock:
            admitted = self._awaiting_streams < self._max_awaiting_streams
            self._awaiting_streams += admitted
        if not admitted:
            call.refuse(
                Refusal(Reason.RATE_LIMITED, f"{self._max_awaiting_streams} request streams await their first message")
            )
            return next(requests)  # raises what grpc raises when a call is over
        self._awaiting.add(call)
        try:
            return next(requests)
        finally:
            self._awaiting.remove(call)
            with self._lock:
                self._awaiting_streams -= 1


def _as_call(function: Callable[..., Any], args: tuple[Any, ...]) -> _Call | None:
    """Returns the call that grpc submits; None if this is another function."""
    if len(args) != 1 + len(_RUN_CALL_ARGUMENTS) or not isinstance(args[2], _grpc_server._RPCState):
        return None
    return _Call(function, *args)


def _serve(call: _Call, argument: Callable[[], Any], done: Future[Any]) -> None:
    try:
        call.serve_with(argument)
    finally:
        done.set_result(None)


_DONE: Final[Future[Any]] = Future()
_DONE.set_result(None)


class _Requests:
    """The messages of a request stream. The wait for the first one is bounded."""

    def __init__(self, pool: CallPool, call: _Call, requests: Iterator[Any]) -> None:
        self._pool = pool
        self._call = call
        self._requests = requests
        self._begun = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._begun:
            return next(self._requests)
        self._begun = True
        return self._pool.await_first_of_stream(self._call, self._requests)

    next = __next__


class _BoundedWaits:
    """The calls that wait for something. A thread refuses those that wait longer than `timeout` seconds."""

    def __init__(self, name: str, timeout: float, refusal: Refusal) -> None:
        self._timeout = timeout
        self._refusal = refusal
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._deadlines: dict[_Call, float] = {}  # the earliest first, since all wait equally long
        self._idle = True
        self._stopped = False
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, call: _Call) -> None:
        """Begins the wait of a call."""
        with self._lock:
            self._deadlines[call] = time.monotonic() + self._timeout
            if self._idle:
                self._changed.notify()

    def remove(self, call: _Call) -> None:
        """Ends the wait of a call, if it waits."""
        with self._lock:
            self._deadlines.pop(call, None)

    def stop(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _watch(self) -> None:
        # Most calls wait for a moment only. So this thread is woken for the first of many, and looks again later.
        while True:
            with self._changed:
                while not self._deadlines and not self._stopped:
                    self._idle = True
                    self._changed.wait()
                    self._idle = False
                if not self._stopped:
                    self._changed.wait(self._timeout / _LOOKS_PER_TIMEOUT)
                if self._stopped:
                    return
                now = time.monotonic()
                late = []
                for call, deadline in self._deadlines.items():
                    if deadline > now:
                        break
                    late.append(call)
                for call in late:
                    del self._deadlines[call]
            for call in late:
                call.refuse(self._refusal)


_LOOKS_PER_TIMEOUT: Final = 10
