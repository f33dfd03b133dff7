"""A sync call that is made once more when its credential was refused, as one call to whoever made it."""

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

from interceptors.client.failed_call import CANCELLED, OUT_OF_TIME, FailedCall
from interceptors.client.renewal import HeldCredential, NoCredential, RenewalFailure
from interceptors.client.timer import alarm
from interceptors.errors import reason_of
from interceptors.waiting import await_event

__all__ = ["Phase", "RetriedCall", "is_renewable"]

_log: Final = logging.getLogger("credmesh.client")


def is_renewable(call: Any) -> bool:
    """Whether a call that is over was refused for a reason that a fresh credential may mend."""
    if call.code() is not grpc.StatusCode.UNAUTHENTICATED:
        return False
    reason = reason_of(call.trailing_metadata())
    return reason is not None and reason.renewable


class Phase(enum.Enum):
    """How far a call has come."""

    FIRST = enum.auto()  # the first attempt is under way, or has just ended
    RENEWING = enum.auto()  # it was refused; a fresh credential was asked for
    SECOND = enum.auto()  # the second attempt is being begun
    DECIDED = enum.auto()  # it is known which attempt counts


class RetriedCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that runs while its maker does something else: a future, or a stream of answers.

    first     the first attempt, under way
    renew     asks for a fresh credential; None if there is to be none
    again     makes the call again with it; runs in the context of the caller
    deadline  monotonic seconds: when the call's time is over

    An attempt that is over when it gets here may come from a caller who blocks until there is an answer. Nothing tells;
    so `again` may block too, and the second attempt then gets a thread of its own.

    The first attempt counts unless it ends refused, with nothing received. Until that is known nobody is told that the
    call is over. All of it happens in the threads of grpc and of the renewal: the maker may never look.
    """

    def __init__(
        self,
        first: Any,
        renew: Callable[[], Future[HeldCredential] | None],
        again: Callable[[HeldCredential], Any],
        deadline: float | None,
    ) -> None:
        self._call = first  # the attempt that counts, as far as is known
        self._renew = renew
        self._again = again
        self._deadline = deadline
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._phase = Phase.FIRST
        self._decided = threading.Event()
        self._cancelled = False
        self._over = False
        self._callbacks: list[Callable[[], None]] = []
        self._may_block = bool(first.done())
        self._maker: int | None = threading.get_ident()
        self._when_over(first, "_first_ended")
        self._maker = None

    # grpc.Call

    def initial_metadata(self) -> Any:
        """See grpc.Call."""
        call = self._call
        metadata = call.initial_metadata()
        if call.done() and self._ended() is not call:
            return self._call.initial_metadata()
        return metadata

    def trailing_metadata(self) -> Any:
        """See grpc.Call."""
        return self._ended().trailing_metadata()

    def code(self) -> Any:
        """See grpc.Call."""
        return self._ended().code()

    def details(self) -> Any:
        """See grpc.Call."""
        return self._ended().details()

    def debug_error_string(self) -> str:
        """What gRPC's own calls have."""
        text: str = self._ended().debug_error_string()
        return text

    def is_active(self) -> bool:
        """See grpc.RpcContext."""
        return not self.done()

    def time_remaining(self) -> Any:
        """See grpc.RpcContext."""
        return self._call.time_remaining()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """See grpc.RpcContext."""
        with self._lock:
            if self._over:
                return False
            self._callbacks.append(callback)
            call = self._call
        # Somebody waits to be called back: this has to live until the call is over, even if everybody drops it.
        _tell_of_end(call, functools.partial(_keep_alive, self))
        return True

    # grpc.Future

    def cancel(self) -> bool:
        """See grpc.Future."""
        with self._lock:
            self._cancelled = True
            phase, call = self._phase, self._call
            if phase is Phase.RENEWING:
                self._phase = Phase.SECOND  # so that nobody begins one
        if phase is Phase.RENEWING:
            self._settle(FailedCall(CANCELLED))
            return True
        if phase is Phase.SECOND:
            return True  # it is cancelled as soon as it has begun
        return bool(call.cancel())

    def cancelled(self) -> bool:
        """See grpc.Future."""
        return self._decided.is_set() and bool(self._call.cancelled())

    def running(self) -> bool:
        """See grpc.Future."""
        return not self.done()

    def done(self) -> bool:
        """See grpc.Future."""
        return self._decided.is_set() and bool(self._call.done())

    def result(self, timeout: float | None = None) -> Any:
        """See grpc.Future."""
        call, remaining = self._wait(timeout)
        return call.result(remaining)

    def exception(self, timeout: float | None = None) -> Any:
        """See grpc.Future."""
        call, remaining = self._wait(timeout)
        return call.exception(remaining)

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """See grpc.Future."""
        call, remaining = self._wait(timeout)
        found: TracebackType | None = call.traceback(remaining)
        return found

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """See grpc.Future."""
        if not self.add_callback(functools.partial(fn, self)):
            fn(self)

    # How an attempt ends

    def _ended(self) -> Any:
        await_event(self._decided)
        return self._call

    def _wait(self, timeout: float | None) -> tuple[Any, float | None]:
        if timeout is None:
            return self._ended(), None
        started = time.monotonic()
        if not await_event(self._decided, timeout):
            raise grpc.FutureTimeoutError
        return self._call, max(0.0, timeout - (time.monotonic() - started))

    def _when_over(self, call: Any, method: str) -> None:
        """Has a method called when an attempt is over, without keeping this object alive.

        grpc cancels a call whose object is dropped, and an abandoned stream must go on being cancelled so.
        """
        if not _tell_of_end(call, functools.partial(_call_method, weakref.ref(self), method)):
            getattr(self, method)()

    def _first_ended(self) -> None:
        if self._decided.is_set():
            self._finish()
        else:
            self._decide()

    def _decide(self) -> None:
        """The first attempt is over, and nothing of it was received."""
        first = self._call
        renewable = is_renewable(first)
        with self._lock:
            if self._phase is not Phase.FIRST:
                return
            if renewable and not self._cancelled:
                self._phase = Phase.RENEWING
        try:
            future = self._renew() if self._phase is Phase.RENEWING else None
        except Exception as error:  # noqa: BLE001 - whoever waits for this call has to hear of it
            self._settle(_not_made(error))
            return
        if future is None:
            self._settle(first)
            return
        future.add_done_callback(self._renewed)
        if self._deadline is not None and not future.done():
            try:
                alarm(self._deadline, functools.partial(_call_method, weakref.ref(self), "_out_of_time"))
            except RuntimeError as error:  # there can be no more threads, so nobody would end the waiting
                self._give_up(_not_made(error))

    def _renewed(self, future: Future[HeldCredential]) -> None:
        with self._lock:
            if self._phase is not Phase.RENEWING:
                return  # it was cancelled, or ran out of time
            self._phase = Phase.SECOND
        if self._may_block and threading.get_ident() != self._maker:
            try:
                threading.Thread(target=self._make_again, args=(future,), name="credmesh-retry", daemon=True).start()
            except RuntimeError as error:  # there can be no more threads
                self._settle(_not_made(error))
        else:
            self._make_again(future)

    def _make_again(self, future: Future[HeldCredential]) -> None:
        try:
            second = self._context.run(self._again, future.result())
        except NoCredential as unobtained:
            second = FailedCall(unobtained.failure)
        except Exception as error:  # noqa: BLE001 - whoever waits for this call has to hear of it
            second = _not_made(error)
        self._settle(second)
        if self._cancelled:
            second.cancel()

    def _out_of_time(self) -> None:
        self._give_up(FailedCall(OUT_OF_TIME))

    def _give_up(self, failed: FailedCall) -> None:
        with self._lock:
            if self._phase is not Phase.RENEWING:
                return
            self._phase = Phase.SECOND  # so that nobody begins one
        self._settle(failed)

    def _settle(self, call: Any) -> None:
        """Whatever happens to this attempt is what happened to the call."""
        with self._lock:
            self._call = call
            self._phase = Phase.DECIDED
            self._decided.set()
            awaited = bool(self._callbacks)
        if awaited:
            _tell_of_end(call, functools.partial(_keep_alive, self))
        self._when_over(call, "_finish")

    def _finish(self) -> None:
        with self._lock:
            self._over = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - the application's own code, in a thread that others need
                _log.exception("a callback of a call failed")


def _tell_of_end(call: Any, callback: Callable[[], None]) -> bool:
    """Has it called when a call is over; False if it is already. A blocking call that failed knows no callbacks."""
    return not call.done() and bool(call.add_callback(callback))


def _not_made(error: Exception) -> FailedCall:
    call = FailedCall(RenewalFailure(grpc.StatusCode.INTERNAL, f"the call could not be made again: {error}"))
    call.__cause__ = error
    return call


def _call_method(reference: weakref.ref[Any], method: str) -> None:
    alive = reference()
    if alive is not None:
        getattr(alive, method)()


def _keep_alive(call: RetriedCall) -> None:
    """Called when it may go; being held for this call was the point."""
    del call
