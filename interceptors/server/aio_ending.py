"""Ending a call of the aio server from outside its handler, with a status.

The handler of a stream gets a context from here: the server's own context, whose call any thread can end.
interceptors/node/open_streams.py decides which streams end, and when.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio

from interceptors.errors import Refusal

__all__ = ["ParsingContext", "StreamContext", "ThreadedStreamContext"]

_MAX_WAIT_FOR_END_SECONDS: Final = 10.0
"""How long a handler waits for the end of its call at most: the call's event loop may have stopped."""


class ParsingContext:
    """A context whose `read` parses requests: grpc receives them unparsed."""

    __slots__ = ("_context", "_parse")

    def __init__(self, context: Any, parse: Callable[[bytes], Any]) -> None:
        self._context = context
        self._parse = parse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """As the server's context. Raises Refusal REQUEST_MALFORMED."""
        request = await self._context.read()
        return request if request is grpc.aio.EOF else self._parse(request)


class StreamContext(ParsingContext):
    """The context of a stream whose handler is a coroutine or an async generator.

    handler_runs              whether the handler runs. A call that is just being refused or answered is not ended:
                              cancelling it would lose its status
    first_response_in_flight  whether the first response is being sent. grpc sends the initial metadata with it, and
                              fails if a status, which would send them too, comes in between
    first_response_sent       whether the first response was sent
    ended_by                  the refusal that ends the call. Set at once, in the thread that ends the call: a response
                              that the handler has not handed over by then is never sent, however late the event loop
                              ends the call

    Everything but `ended_by` is read and written in the handler's event loop only.
    """

    __slots__ = (
        "_loop",
        "_postponed",
        "_task",
        "ended_by",
        "first_response_in_flight",
        "first_response_sent",
        "handler_runs",
    )

    def __init__(self, context: Any, parse: Callable[[bytes], Any]) -> None:
        super().__init__(context, parse)
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._postponed: Refusal | None = None  # ends the call as soon as the first response was sent
        self.ended_by: Refusal | None = None
        self.handler_runs = False
        self.first_response_in_flight = False
        self.first_response_sent = False

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """As the server's context."""
        await self._send(self._context.send_initial_metadata(initial_metadata))

    async def write(self, message: Any) -> None:
        """As the server's context."""
        await self._send(self._context.write(message))

    def end_soon(self, refusal: Refusal) -> None:
        """Ends the call. May be called from any thread, and returns at once."""
        self.ended_by = refusal
        self._loop.call_soon_threadsafe(self._end, refusal)

    async def note_first_response_sent(self) -> None:
        """Notes that the first response was sent. Ends the call, by raising, if its end had to wait for that."""
        self.first_response_in_flight = False
        self.first_response_sent = True
        if self._postponed is not None:
            await self._abort(self._postponed)

    async def abort_if_ended(self) -> None:
        """Ends the call, by raising, if a refusal ends it: the next response must not be sent."""
        if self.ended_by is None:
            return
        try:
            await self._abort(self.ended_by)
        except grpc.aio.UsageError:
            # `_abort_and_cancel` is ending the call at this moment, and cancels this handler afterwards.
            await asyncio.Event().wait()

    async def _send(self, sending: Any) -> None:
        if self.ended_by is not None:
            sending.close()
            await self.abort_if_ended()
        if self.first_response_sent:
            await sending
            return
        self.first_response_in_flight = True
        await sending
        await self.note_first_response_sent()

    def _end(self, refusal: Refusal) -> None:
        if self.first_response_in_flight:
            self._postponed = refusal
        elif self.handler_runs:
            ending = asyncio.ensure_future(self._abort_and_cancel(refusal))
            # The event loop keeps only weak references to tasks.
            _endings.add(ending)
            ending.add_done_callback(_endings.discard)

    async def _abort_and_cancel(self, refusal: Refusal) -> None:
        # In this order: a call whose handler is only cancelled gets no status.
        try:
            await self._abort(refusal)
        except grpc.aio.AbortError:  # raised by every abort that succeeds
            if self._task is not None:
                self._task.cancel()
        except grpc.aio.UsageError:
            pass  # the handler itself has aborted the call at this moment

    async def _abort(self, refusal: Refusal) -> None:
        await self._context.abort(refusal.status, refusal.message, refusal.trailing_metadata())


_endings: Final[set[asyncio.Task[None]]] = set()


class ThreadedStreamContext:
    """The context of a call whose handler is a plain function, in a thread of the aio server.

    aborted        the exception by which the call was ended, None until then. Exceptions that the handler raises
                   afterwards are ignored
    code, details  what the handler has set, None until then: the server's own context does not tell
    """

    __slots__ = (
        "_beginning",
        "_begun",
        "_context",
        "_ended",
        "_handler_runs",
        "_lock",
        "_postponed",
        "aborted",
        "code",
        "details",
    )

    def __init__(self, context: Any) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._postponed: Refusal | None = None  # ends the call as soon as the initial metadata is sent
        self._handler_runs = True
        self._beginning = False  # whether the initial metadata is being sent
        self._begun = False  # whether the initial metadata was sent
        self._ended: threading.Event | None = None  # set when the call has been ended; None until `end_soon`
        self.aborted: grpc.aio.AbortError | None = None
        self.code: grpc.StatusCode | None = None
        self.details: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def set_code(self, code: grpc.StatusCode) -> None:
        """As the server's context."""
        self.code = code
        self._context.set_code(code)

    def set_details(self, details: str) -> None:
        """As the server's context."""
        self.details = details
        self._context.set_details(details)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """As the server's context."""
        self.begin(initial_metadata)

    def end_soon(self, refusal: Refusal) -> None:
        """Ends the call. May be called from any thread, and returns at once."""
        with self._lock:
            if self._beginning:
                self._postponed = refusal
                return
            if not self._handler_runs or self._ended is not None:
                return
            ended = threading.Event()
            # This context's abort blocks until the event loop has sent the status, and for ever if the event loop stops
            # meanwhile. Hence a daemon thread.
            threading.Thread(target=self._end, args=(refusal, ended), name="credmesh-end", daemon=True).start()
            self._ended = ended

    def begin(self, initial_metadata: Any = ()) -> None:
        """Sends the initial metadata, unless they were sent; then ends the call if its end had to wait for that.

        grpc takes a response from this thread long before it sends it. So the initial metadata, which must not be sent
        twice (see StreamContext.first_response_in_flight), are sent here and not with the first response. If the call
        is being ended at this moment, waits for its end, and raises the exception that ended it.
        """
        with self._lock:
            if self._begun:
                return
            ended = self._ended
            self._beginning = ended is None
        if ended is not None:
            ended.wait(_MAX_WAIT_FOR_END_SECONDS)
            raise self.aborted or grpc.aio.AbortError("the call was ended")
        self._context.send_initial_metadata(initial_metadata)
        with self._lock:
            self._begun, self._beginning = True, False
            postponed = self._postponed
        if postponed is not None:
            self._abort(postponed)

    def finish(self) -> None:
        """Notes that the handler has returned: there is no call left to end."""
        with self._lock:
            self._handler_runs = False

    def _end(self, refusal: Refusal, ended: threading.Event) -> None:
        try:
            self._abort(refusal)
        except grpc.aio.AbortError as aborted:  # raised by every abort that succeeds
            self.aborted = aborted
        except grpc.aio.BaseError:
            pass  # the call was over already
        finally:
            ended.set()

    def _abort(self, refusal: Refusal) -> None:
        self._context.set_trailing_metadata(refusal.trailing_metadata())
        self._context.abort(refusal.status, refusal.message)
