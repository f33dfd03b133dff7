"""A sync future or stream that is made again with a fresh credential after a refusal; to its caller, one call.

The same classes serve calls that are not repeated. What happens after a refusal is then to give the credential up.

Blocking unary calls: interceptors/client/sync/channel.py.
"""

from __future__ import annotations

import contextvars
import enum
import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final

import grpc

from interceptors.client.failed_call import CANCELLED, TIMED_OUT, FailedCall
from interceptors.client.renewal import HeldCredential, NoCredential, RenewalFailure
from interceptors.client.retry_rules import is_renewable
from interceptors.client.timer import call_at
from interceptors.waiting import await_event

__all__ = ["Phase", "RetriedCall", "failed_retry"]

_log: Final = logging.getLogger("credmesh.client")

Callback = Callable[[], None]


class Phase(enum.Enum):
    """How far a call has come."""

    FIRST = enum.auto()  # the first attempt runs, or has just ended
    RENEWING = enum.auto()  # the first attempt was refused, and a fresh credential is requested
    SETTLING = enum.auto()  # no renewal is awaited any more; the outcome is about to be known
    CHOSEN = enum.auto()  # it is known which attempt is the outcome


class RetriedCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that runs while its caller does something else: a future, or a stream of responses.

    first               the first attempt, already started
    replace_credential  requests a fresh credential; returns None if there is to be no second attempt
    make_second         makes the second attempt; runs in the context of the caller
    deadline            when the call's time ends, in monotonic seconds

    The first attempt is the outcome unless it is refused before it returned a response. Until that is known the call is
    not done. All steps run in the threads of gRPC and of the renewal, since the caller may never read the call.

    gRPC does not say whether the caller blocks. If the first attempt is done already when this object is made, it
    probably does. Then `make_second` may block too, so it gets its own thread.
    """

    def __init__(
        self,
        first: Any,
        replace_credential: Callable[[], Future[HeldCredential] | None],
        make_second: Callable[[HeldCredential], Any],
        deadline: float | None,
    ) -> None:
        self._attempt = first  # the outcome, as far as is known
        self._replace_credential = replace_credential
        self._make_second = make_second
        self._deadline = deadline
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._phase = Phase.FIRST
        self._chosen = threading.Event()
        self._cancelled = False
        self._ended = False
        self._callbacks: list[Callback] = []
        self._second_may_block = bool(first.done())
        # In the constructor, the caller's own thread may block.
        self._constructing_thread: int | None = threading.get_ident()
        self._on_end(first, self._first_ended)
        self._constructing_thread = None

    # grpc.Call

    def initial_metadata(self) -> Any:
        """See grpc.Call."""
        attempt = self._attempt
        metadata = attempt.initial_metadata()
        if attempt.done() and self._await_choice() is not attempt:
            return self._attempt.initial_metadata()
        return metadata

    def trailing_metadata(self) -> Any:
        """See grpc.Call."""
        return self._await_choice().trailing_metadata()

    def code(self) -> Any:
        """See grpc.Call."""
        return self._await_choice().code()

    def details(self) -> Any:
        """See grpc.Call."""
        return self._await_choice().details()

    def debug_error_string(self) -> str:
        """Returns gRPC's description of the error. gRPC's own calls have this method."""
        text: str = self._await_choice().debug_error_string()
        return text

    def is_active(self) -> bool:
        """See grpc.RpcContext."""
        return not self.done()

    def time_remaining(self) -> Any:
        """See grpc.RpcContext."""
        return self._attempt.time_remaining()

    def add_callback(self, callback: Callback) -> bool:
        """See grpc.RpcContext."""
        with self._lock:
            if self._ended:
                return False
            self._callbacks.append(callback)
            attempt = self._attempt
        # This object runs the callback, so it must live until the attempt ends, even if the caller drops it.
        _add_end_callback(attempt, functools.partial(_keep_alive, self))
        return True

    # grpc.Future

    def cancel(self) -> bool:
        """See grpc.Future."""
        with self._lock:
            self._cancelled = True
            phase, attempt = self._phase, self._attempt
            if phase is Phase.RENEWING:
                self._phase = Phase.SETTLING  # prevents the second attempt
        if phase is Phase.RENEWING:
            self._choose(FailedCall(CANCELLED))
            return True
        if phase is Phase.SETTLING:
            return True  # the second attempt is cancelled as soon as it has started
        return bool(attempt.cancel())

    def cancelled(self) -> bool:
        """See grpc.Future."""
        return self._chosen.is_set() and bool(self._attempt.cancelled())

    def running(self) -> bool:
        """See grpc.Future."""
        return not self.done()

    def done(self) -> bool:
        """See grpc.Future."""
        return self._chosen.is_set() and bool(self._attempt.done())

    def result(self, timeout: float | None = None) -> Any:
        """See grpc.Future."""
        attempt, remaining = self._await_choice_within(timeout)
        return attempt.result(remaining)

    def exception(self, timeout: float | None = None) -> Any:
        """See grpc.Future."""
        attempt, remaining = self._await_choice_within(timeout)
        return attempt.exception(remaining)

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """See grpc.Future."""
        attempt, remaining = self._await_choice_within(timeout)
        found: TracebackType | None = attempt.traceback(remaining)
        return found

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """See grpc.Future."""
        if not self.add_callback(functools.partial(fn, self)):
            fn(self)

    # From the first attempt to the outcome

    def _await_choice(self) -> Any:
        await_event(self._chosen)
        return self._attempt

    def _await_choice_within(self, timeout: float | None) -> tuple[Any, float | None]:
        """Waits for the choice; returns the chosen attempt, and what is left of the timeout."""
        if timeout is None:
            return self._await_choice(), None
        started = time.monotonic()
        if not await_event(self._chosen, timeout):
            raise grpc.FutureTimeoutError
        return self._attempt, max(0.0, timeout - (time.monotonic() - started))

    def _on_end(self, attempt: Any, method: Callback) -> None:
        """Calls a method of this object when an attempt ends, without keeping this object alive.

        gRPC cancels a stream whose call object is dropped. With a strong reference an abandoned stream would go on.
        """
        if not _add_end_callback(attempt, _weak_callback(method)):
            method()

    def _first_ended(self) -> None:
        if self._chosen.is_set():
            self._run_callbacks()
        else:
            self._retry_or_choose_first()

    def _retry_or_choose_first(self) -> None:
        """Runs when the first attempt has ended without a response."""
        first = self._attempt
        renewable = is_renewable(first.code(), first.trailing_metadata())
        with self._lock:
            if self._phase is not Phase.FIRST:
                return
            if renewable and not self._cancelled:
                self._phase = Phase.RENEWING
        try:
            future = self._replace_credential() if self._phase is Phase.RENEWING else None
        except Exception as error:  # noqa: BLE001 - the outcome for the caller, who waits for one
            self._choose(failed_retry(error))
            return
        if future is None:
            self._choose(first)
            return
        future.add_done_callback(self._renewed)
        if self._deadline is not None and not future.done():
            try:
                call_at(self._deadline, _weak_callback(self._timed_out))
            except RuntimeError as error:  # no thread can be started, so nothing would end the wait at the deadline
                self._fail_renewal(failed_retry(error))

    def _renewed(self, future: Future[HeldCredential]) -> None:
        with self._lock:
            if self._phase is not Phase.RENEWING:
                return  # the call was cancelled, or its time ran out
            self._phase = Phase.SETTLING
        if self._second_may_block and threading.get_ident() != self._constructing_thread:
            try:
                threading.Thread(
                    target=self._make_second_attempt, args=(future,), name="credmesh-retry", daemon=True
                ).start()
            except RuntimeError as error:  # no thread can be started
                self._choose(failed_retry(error))
        else:
            self._make_second_attempt(future)

    def _make_second_attempt(self, future: Future[HeldCredential]) -> None:
        try:
            second = self._context.run(self._make_second, future.result())
        except NoCredential as error:
            second = FailedCall(error.failure)
        except Exception as error:  # noqa: BLE001 - the outcome for the caller, who waits for one
            second = failed_retry(error)
        self._choose(second)
        if self._cancelled:
            second.cancel()

    def _timed_out(self) -> None:
        self._fail_renewal(FailedCall(TIMED_OUT))

    def _fail_renewal(self, failed: FailedCall) -> None:
        """Ends the call if it still waits for a fresh credential."""
        with self._lock:
            if self._phase is not Phase.RENEWING:
                return
            self._phase = Phase.SETTLING  # prevents the second attempt
        self._choose(failed)

    def _choose(self, attempt: Any) -> None:
        """Makes this attempt the outcome of the call."""
        with self._lock:
            self._attempt = attempt
            self._phase = Phase.CHOSEN
            self._chosen.set()
            has_callbacks = bool(self._callbacks)
        if has_callbacks:
            _add_end_callback(attempt, functools.partial(_keep_alive, self))
        self._on_end(attempt, self._run_callbacks)

    def _run_callbacks(self) -> None:
        with self._lock:
            self._ended = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - the application's own code, in a thread that other calls need
                _log.exception("a callback of a call failed")


def failed_retry(error: Exception) -> FailedCall:
    """Returns the outcome of a call whose second attempt could not be made."""
    call = FailedCall(RenewalFailure(grpc.StatusCode.INTERNAL, f"the call could not be made again: {error}"))
    call.__cause__ = error
    return call


def _add_end_callback(attempt: Any, callback: Callback) -> bool:
    """Has the callback called when an attempt ends; False if it has ended.

    `done` comes first: a blocking call that failed has no `add_callback`.
    """
    return not attempt.done() and bool(attempt.add_callback(callback))


def _weak_callback(method: Callback) -> Callback:
    """Returns a callback that calls a bound method while its object lives."""
    return functools.partial(_call_if_alive, weakref.WeakMethod(method))


def _call_if_alive(reference: weakref.WeakMethod[Callback]) -> None:
    method = reference()
    if method is not None:
        method()


def _keep_alive(call: RetriedCall) -> None:
    """A callback that does nothing. The attempt that holds it holds the call."""
    del call
