"""The audit line of every refused call, and what to do with an error that nobody expected."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from interceptors.errors import Refusal

__all__ = ["AUDIT_LOGGER", "RefusalLog"]

AUDIT_LOGGER: Final = "credmesh.audit"

_LINES_PER_SECOND: Final = 50


class RefusalLog:
    """Writes one line per refused call to the logger `credmesh.audit`, never a credential.

    A flood of refusals is cut to a number of lines per second; the first line after it says how many were left out.
    """

    def __init__(self) -> None:
        self._log = logging.getLogger(AUDIT_LOGGER)
        self._lock = threading.Lock()
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def refused(self, method: str, peer: str, refusal: Refusal, *, subject: str | None = None) -> None:
        """A call was refused, or an open stream ended."""
        with self._lock:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._lines = second, 0
            self._lines += 1
            if self._lines > _LINES_PER_SECOND:
                self._left_out += 1
                return
            left_out, self._left_out = self._left_out, 0
        fields: dict[str, object] = {
            "event": "refused",
            "method": method,
            "reason": refusal.reason.name,
            "cause": str(refusal),
            "peer": peer,
        }
        if subject is not None:
            fields["subject"] = subject
        if left_out:
            fields["left_out_before"] = left_out
        self._log.warning("refused", extra=fields)
