"""The rules of a second attempt at a call: when there is one, and how much time is left for it."""

from __future__ import annotations

import time
from typing import Any

import grpc

from interceptors.errors import reason_of

__all__ = ["is_renewable", "remaining_seconds"]


def is_renewable(code: grpc.StatusCode | None, trailing_metadata: Any) -> bool:
    """Whether a call was refused for a reason that a fresh credential may remove."""
    if code is not grpc.StatusCode.UNAUTHENTICATED:
        return False
    reason = reason_of(trailing_metadata)
    return reason is not None and reason.renewable


def remaining_seconds(timeout: float | None, started: float) -> float | None:
    """Returns what is left of a call's timeout, never below 0. `started` is in monotonic seconds.

    With a timeout of 0 gRPC ends a call at once with DEADLINE_EXCEEDED.
    """
    return None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
