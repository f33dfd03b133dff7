"""Ending a call of the aio server from outside its handler, with a status."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

import grpc.aio

from interceptors.errors import Refusal

__all__ = ["RunningHandler", "ThreadedHandler"]

_ENDING: Final = 10.0
"""Seconds that a handler waits for the end of its call, at most: its event loop may have ended."""


class RunningHandler:
    """A stream's handler, to be ended from any thread.

    context    what to give to the handler as its context
    inside     whether the handler runs. A call that is just being refused or answered is left to finish: to cancel it
               then would swallow its status
    beginning  whether the first response is on its way. grpc sends the initial metadata with it, and fails if a status
               that would do the same comes in between
    begun      whether the first response is sent
    over       by what the call is about to be ended. Set at once, in the thread that ends it: no response that the
               handler has not handed over by then is sent, however late the event loop gets to ending the call

    All the rest is read and written in the handler's event loop only.
    """

    __slots__ = ("_call", "_due", "_loop", "_task", "beginning", "begun", "context", "inside", "over")

    def __init__(self, context: Any) -> None:
        self._call = context
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._due: Refusal | None = None
        self.context = _Context(context, self)
        self.over: Refusal | None = None
        self.inside = False
        self.beginning = False
        self.begun = False

    def end_soon(self, refusal: Refusal) -> None:
        """Ends the call. May be called from any thread, and returns at once."""
        self.over = refusal
        self._loop.call_soon_threadsafe(self._end, refusal)

    async def has_begun(self) -> None:
        """The first response is sent. Ends the call here, by raising, if that had to wait for it."""
        self.beginning = False
        self.begun = True
        if self._due is not None:
            await self._abort(self._due)

    async def end_if_over(self) -> None:
        """Ends the call here, by raising, if it is over: what comes next must not be sent any more."""
        if self.over is None:
            return
        try:
            await self._abort(self.over)
        except grpc.aio.UsageError:
            # It is being ended from outside in this very moment, which cancels this handler when it is done.
            await asyncio.Event().wait()

    def _end(self, refusal: Refusal) -> None:
        if self.beginning:
            self._due = refusal
        elif self.inside:
            ending = asyncio.ensure_future(self._abort_and_cancel(refusal))
            # The event loop itself keeps only weak references to tasks.
            _endings.add(ending)
            ending.add_done_callback(_endings.discard)

    async def _abort_and_cancel(self, refusal: Refusal) -> None:
        # In this order: a handler that is only cancelled sends no status at all.
        try:
            await self._abort(refusal)
        except grpc.aio.AbortError:  # how an abort that succeeded returns
            if self._task is not None:
                self._task.cancel()
        except grpc.aio.UsageError:
            pass  # the handler has aborted by itself in this very moment

    async def _abort(self, refusal: Refusal) -> None:
        await self._call.abort(refusal.status, refusal.message, refusal.trailing_metadata())


class _Context:
    """The context as the handler sees it: the same, except that the beginning of the answer is noticed."""

    def __init__(self, context: Any, handler: RunningHandler) -> None:
        self._context = context
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        await self._begin(self._context.send_initial_metadata(initial_metadata))

    async def write(self, message: Any) -> None:
        await self._begin(self._context.write(message))

    async def _begin(self, sending: Any) -> None:
        if self._handler.over is not None:
            sending.close()
            await self._handler.end_if_over()
        if self._handler.begun:
            await sending
            return
        self._handler.beginning = True
        await sending
        await self._handler.has_begun()


_endings: Final[set[asyncio.Task[None]]] = set()


class ThreadedHandler:
    """A plain function that serves a stream in a thread of the aio server, to be ended from another thread.

    context  what to give to the handler as its context
    aborted  by what the call was ended; what the handler raises after that is of no interest
    """

    __slots__ = ("_beginning", "_begun", "_call", "_due", "_ended", "_inside", "_lock", "aborted", "context")

    def __init__(self, context: Any) -> None:
        self._call = context
        self._lock = threading.Lock()
        self._due: Refusal | None = None
        self._inside = True
        self._beginning = False
        self._begun = False
        self._ended: threading.Event | None = None  # set when the call was ended from outside; None before that begins
        self.aborted: grpc.aio.AbortError | None = None
        self.context = _ThreadedContext(context, self)

    def end_soon(self, refusal: Refusal) -> None:
        """Ends the call. Returns at once."""
        with self._lock:
            if self._beginning:
                self._due = refusal
                return
            if not self._inside or self._ended is not None:
                return
            ended = threading.Event()
            # This context's abort blocks until the loop has sent the status. In a daemon thread, since nobody wakes it
            # up if the server's loop ends meanwhile.
            threading.Thread(target=self._end, args=(refusal, ended), name="credmesh-end", daemon=True).start()
            self._ended = ended

    def begin(self, initial_metadata: Any = ()) -> None:
        """Sends the initial metadata, unless that is done: see RunningHandler.beginning. Ends the call if that is due.

        grpc takes a response from this thread long before it has sent it, so here the two are sent apart. Where the
        call is being ended in this very moment, waits until it is, and raises what it was ended by.
        """
        with self._lock:
            if self._begun:
                return
            ended = self._ended
            self._beginning = ended is None
        if ended is not None:
            ended.wait(_ENDING)
            raise self.aborted or grpc.aio.AbortError("the call was ended")
        self._call.send_initial_metadata(initial_metadata)
        with self._lock:
            self._begun, self._beginning = True, False
            due = self._due
        if due is not None:
            self._abort(due)

    def left(self) -> None:
        """The handler has returned: there is nothing left to end."""
        with self._lock:
            self._inside = False

    def _end(self, refusal: Refusal, ended: threading.Event) -> None:
        try:
            self._abort(refusal)
        except grpc.aio.AbortError as aborted:  # how an abort that succeeded returns
            self.aborted = aborted
        except grpc.aio.BaseError:
            pass  # the call was over already
        finally:
            ended.set()

    def _abort(self, refusal: Refusal) -> None:
        self._call.set_trailing_metadata(refusal.trailing_metadata())
        self._call.abort(refusal.status, refusal.message)


class _ThreadedContext:
    """As _Context, for plain functions."""

    def __init__(self, context: Any, handler: ThreadedHandler) -> None:
        self._context = context
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._handler.begin(initial_metadata)
