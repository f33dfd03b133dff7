"""The wait of an aio server's calls for their request. Calls whose request does not come are ended."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import grpc.aio

from interceptors.errors import Reason, Refusal
from interceptors.server.admission import MethodAdmission

__all__ = ["MessageWaits"]

_SWEEPS_PER_TIMEOUT: Final = 10


class MessageWaits:
    """The calls of one server whose request is awaited. timeout: seconds after which they end with REQUEST_MISSING.

    One timer serves all calls: a timer for each would cost more than the verification of a credential.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # When the wait of each task began, by its event loop's clock. Those that wait longest come first.
        self._waits: dict[Any, tuple[float, Any, MethodAdmission]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._endings: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to tasks

    def __len__(self) -> int:
        return len(self._waits)

    async def read(self, context: Any, admission: MethodAdmission) -> bytes:
        """Returns the unparsed request of the call that the current task serves."""
        task: Any = asyncio.current_task()  # grpc serves each call in a task
        loop = task.get_loop()
        self._waits[task] = (loop.time(), context, admission)
        if self._timer is None:
            self._timer = loop.call_later(self._timeout, self._sweep, loop)
        try:
            request = await context.read()
        finally:
            self._waits.pop(task, None)
        if request is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the method needs exactly one request message")
        return request  # type: ignore[no-any-return]

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, (since, context, admission) in list(self._waits.items()):
            if since + self._timeout > now:
                break
            del self._waits[task]
            ending = loop.create_task(self._end(task, context, admission))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
        self._timer = None
        if self._waits:
            self._timer = loop.call_later(self._timeout / _SWEEPS_PER_TIMEOUT, self._sweep, loop)

    async def _end(self, task: asyncio.Task[Any], context: Any, admission: MethodAdmission) -> None:
        refusal = Refusal(Reason.REQUEST_MISSING, f"no request came within {self._timeout:g} s")
        admission.record_refusal(refusal, context.peer())
        try:
            # In this order: a call whose task is only cancelled gets no status.
            await context.abort(refusal.status, refusal.message, refusal.trailing_metadata())
        except grpc.aio.AbortError:  # raised by every abort that succeeds
            task.cancel()
        except grpc.aio.UsageError:
            pass  # the call has ended at this moment
