"""The audit log of a node: a line for each refused call and for each open stream that was ended."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from typing import Final

from interceptors.errors import Reason, Refusal

__all__ = ["AUDIT_LOGGER", "AuditLog"]

AUDIT_LOGGER: Final = "credmesh.audit"

_MAX_LINES_PER_SECOND: Final = 50
_OMISSION_DELAY_SECONDS: Final = 1.0


class AuditLog:
    """Writes a line for each refused call and each ended stream to the logger `credmesh.audit`, never a credential.

    The lines per second are limited for each reason separately, so a flood of garbage cannot hide refusals for another
    reason. Omitted lines are counted, and the count is logged about a second after the first omission. The end of a
    stream is always logged, by a thread that serves only this log, since thousands of streams may end in a row.
    """

    def __init__(self) -> None:
        self._log = logging.getLogger(AUDIT_LOGGER)
        self._changed = threading.Condition(threading.Lock())
        self._second = 0
        self._lines: dict[Reason, int] = {}
        self._omitted: dict[Reason, int] = {}
        self._omissions_due_at = 0.0
        self._ended: list[dict[str, object]] = []
        self._writer: threading.Thread | None = None
        _logs.add(self)

    def log_refused(self, method: str, peer: str, refusal: Refusal, *, subject: str | None = None) -> None:
        """Logs that a call was refused."""
        reason = refusal.reason
        now = time.monotonic()
        with self._changed:
            if int(now) != self._second:
                self._second = int(now)
                self._lines.clear()
            lines = self._lines.get(reason, 0)
            if lines >= _MAX_LINES_PER_SECOND:
                if not self._omitted:
                    self._omissions_due_at = now + _OMISSION_DELAY_SECONDS
                    self._wake_writer()
                self._omitted[reason] = self._omitted.get(reason, 0) + 1
                return
            self._lines[reason] = lines + 1
        self._log.warning("refused", extra=_fields("refused", method, peer, refusal, subject))

    def log_ended(self, method: str, peer: str, refusal: Refusal, *, subject: str) -> None:
        """Logs that an open stream was ended. Returns at once; the thread writes the line."""
        with self._changed:
            self._ended.append(_fields("stream.ended", method, peer, refusal, subject))
            self._wake_writer()

    def flush(self) -> None:
        """Writes all pending lines. This also happens when the process exits."""
        with self._changed:
            ended, self._ended = self._ended, []
            omitted, self._omitted = self._omitted, {}
        self._write(ended, omitted)

    def _wake_writer(self) -> None:
        if self._writer is not None:
            self._changed.notify()
            return
        writer = threading.Thread(target=self._write_all, name="credmesh-audit", daemon=True)
        try:
            writer.start()
        except RuntimeError:
            return  # no thread is left, or the process exits: the next line tries again, and the exit flushes
        self._writer = writer

    def _write_all(self) -> None:
        """Writes until no line is pending, then ends the thread."""
        while True:
            with self._changed:
                wait = self._omissions_due_at - time.monotonic() if self._omitted else 0.0
                if not self._ended and wait > 0:
                    self._changed.wait(wait)
                    continue
                if not self._ended and not self._omitted:
                    self._writer = None
                    return
                ended, self._ended = self._ended, []
                omitted: dict[Reason, int] = {}
                if wait <= 0:
                    omitted, self._omitted = self._omitted, omitted
            self._write(ended, omitted)

    def _write(self, ended: list[dict[str, object]], omitted: dict[Reason, int]) -> None:
        for fields in ended:
            self._log.warning("stream.ended", extra=fields)
        for reason, count in omitted.items():
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


_logs: Final[weakref.WeakSet[AuditLog]] = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    # Registered after the function of `logging` that closes the handlers, so it runs before it.
    for log in list(_logs):
        log.flush()
