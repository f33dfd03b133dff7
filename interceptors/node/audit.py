"""The audit lines of refused calls and of streams that were ended."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from typing import Final

from interceptors.errors import Reason, Refusal

__all__ = ["AUDIT_LOGGER", "RefusalLog"]

AUDIT_LOGGER: Final = "credmesh.audit"

_LINES_PER_SECOND: Final = 50
_TOLD_WITHIN: Final = 1.0


class RefusalLog:
    """Writes one line per refused call to the logger `credmesh.audit`, never a credential.

    Each reason has a number of lines per second of its own: whoever floods a server with garbage cannot hide with it
    what was refused to somebody for another reason. What is left out is counted, and the count is told within about a
    second, whether anything else is refused or not. The end of a stream is told always: there are no more of them than
    there were streams. These lines are written by a thread of their own, since thousands of streams may end in a row.
    """

    def __init__(self) -> None:
        self._log = logging.getLogger(AUDIT_LOGGER)
        self._changed = threading.Condition(threading.Lock())
        self._second = 0
        self._lines: dict[Reason, int] = {}
        self._left_out: dict[Reason, int] = {}
        self._tell_at = 0.0
        self._ended: list[dict[str, object]] = []
        self._writer: threading.Thread | None = None
        _logs.add(self)

    def refused(self, method: str, peer: str, refusal: Refusal, *, subject: str | None = None) -> None:
        """A call was refused."""
        reason = refusal.reason
        now = time.monotonic()
        with self._changed:
            if int(now) != self._second:
                self._second = int(now)
                self._lines.clear()
            lines = self._lines.get(reason, 0)
            if lines >= _LINES_PER_SECOND:
                if not self._left_out:
                    self._tell_at = now + _TOLD_WITHIN
                    self._wake()
                self._left_out[reason] = self._left_out.get(reason, 0) + 1
                return
            self._lines[reason] = lines + 1
        self._log.warning("refused", extra=_fields("refused", method, peer, refusal, subject))

    def ended(self, method: str, peer: str, refusal: Refusal, *, subject: str) -> None:
        """An open stream was ended. Returns at once; the line is written soon."""
        with self._changed:
            self._ended.append(_fields("stream.ended", method, peer, refusal, subject))
            self._wake()

    def flush(self) -> None:
        """Writes what is still to be told, now. Happens by itself when the process exits."""
        with self._changed:
            ended, self._ended = self._ended, []
            left_out, self._left_out = self._left_out, {}
        self._write(ended, left_out)

    def _wake(self) -> None:
        if self._writer is not None:
            self._changed.notify()
            return
        writer = threading.Thread(target=self._write_all, name="credmesh-refusals", daemon=True)
        try:
            writer.start()
        except RuntimeError:
            return  # the process is short of threads, or exits: the next one to be told of tries again, or the exit
        self._writer = writer

    def _write_all(self) -> None:
        """Writes until there is nothing more to tell. A log that has nothing to tell holds no thread."""
        while True:
            with self._changed:
                wait = self._tell_at - time.monotonic() if self._left_out else 0.0
                if not self._ended and wait > 0:
                    self._changed.wait(wait)
                    continue
                if not self._ended and not self._left_out:
                    self._writer = None
                    return
                ended, self._ended = self._ended, []
                left_out: dict[Reason, int] = {}
                if wait <= 0:
                    left_out, self._left_out = self._left_out, left_out
            self._write(ended, left_out)

    def _write(self, ended: list[dict[str, object]], left_out: dict[Reason, int]) -> None:
        for fields in ended:
            self._log.warning("stream.ended", extra=fields)
        for reason, count in left_out.items():
            fields = {"event": "refused.left_out", "reason": reason.name, "left_out": count}
            self._log.warning("refused.left_out", extra=fields)


def _fields(event: str, method: str, peer: str, refusal: Refusal, subject: str | None) -> dict[str, object]:
    fields: dict[str, object] = {
        "event": event,
        "method": method,
        "reason": refusal.reason.name,
        "cause": str(refusal),
        "peer": peer,
    }
    if subject is not None:
        fields["subject"] = subject
    return fields


_logs: Final[weakref.WeakSet[RefusalLog]] = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    # Registered later than what closes the log's handlers, so it runs earlier.
    for log in list(_logs):
        log.flush()
