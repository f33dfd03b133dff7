"""How long a caller waits for a receipt."""

from __future__ import annotations

import math
from typing import Final, Literal, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration

from authsvc.errors import InvalidField

__all__ = ["receipt_wait_seconds"]

_MAX_WAIT_SECONDS: Final = 3600.0
_MAX_ANSWER_SECONDS: Final = 0.3
_ANSWER_FRACTION: Final = 1 / 5
"""What is left of a call's deadline for sending the answer."""


class ReceiptRequest(Protocol):
    """A request that can ask for a receipt."""

    wait: bool

    @property
    def wait_at_most(self) -> Duration:
        """The longest wait."""
        ...

    def HasField(self, field_name: Literal["wait_at_most"]) -> bool:
        """Whether wait_at_most is set."""
        ...


def receipt_wait_seconds(request: ReceiptRequest, context: grpc.ServicerContext) -> float | None:
    """The seconds for which a request wants to wait for its receipt; None if it wants no receipt. InvalidField.

    The wait ends shortly before the call's deadline, so that the caller still gets the receipt.
    """
    at_most = request.wait_at_most.ToNanoseconds() / 1e9 if request.HasField("wait_at_most") else None
    if at_most is not None and not 0 < at_most <= _MAX_WAIT_SECONDS:
        raise InvalidField("wait_at_most", f"must be above 0 and at most {_MAX_WAIT_SECONDS:g} s")
    if not request.wait:
        if at_most is not None:
            raise InvalidField("wait_at_most", "needs wait; set that too")
        return None
    remaining = context.time_remaining()
    left = math.inf if remaining is None else remaining - min(_MAX_ANSWER_SECONDS, remaining * _ANSWER_FRACTION)
    return min(left, math.inf if at_most is None else at_most)
