"""How long a caller wants to wait for a receipt."""

from __future__ import annotations

import math
from typing import Final, Literal, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration

from authsvc.errors import InvalidField

__all__ = ["patience_of"]

_MAX_WAIT_SECONDS: Final = 3600.0


class Waits(Protocol):
    """A request that can ask for a receipt."""

    wait: bool

    @property
    def wait_at_most(self) -> Duration:
        """How long at most."""
        ...

    def HasField(self, field_name: Literal["wait_at_most"]) -> bool:
        """Whether wait_at_most is set."""
        ...


def patience_of(request: Waits, context: grpc.ServicerContext) -> float | None:
    """How many seconds a request wants its receipt to be waited for; None if it wants none.

    With a deadline a little less than what is left, so that the caller still gets what is known. InvalidField.
    """
    at_most = request.wait_at_most.ToNanoseconds() / 1e9 if request.HasField("wait_at_most") else None
    if at_most is not None and not 0 < at_most <= _MAX_WAIT_SECONDS:
        raise InvalidField("wait_at_most", f"must be above 0 and at most {_MAX_WAIT_SECONDS:g} s")
    if not request.wait:
        if at_most is not None:
            raise InvalidField("wait_at_most", "goes with wait; set that too")
        return None
    remaining = context.time_remaining()
    left = math.inf if remaining is None else remaining - min(0.3, remaining / 5)
    return min(left, math.inf if at_most is None else at_most)
