"""What an answer means to the client that asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from credmesh.admin.v1 import receipt_pb2
from interceptors.errors import reason_of

__all__ = ["Outcome", "outcome_of", "receipt_of"]

_UNKNOWN: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
"""Status codes that do not tell whether the operation was carried out."""


@dataclass(slots=True)
class Outcome:
    """The answer to a call, as described in `asking`. `details` holds fields of the answer that the client needs."""

    answer: str
    reason: str = ""
    code: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def outcome_of(error: grpc.aio.AioRpcError) -> Outcome:
    """The outcome of a failed call."""
    trailing: Any = error.trailing_metadata()
    reason = reason_of(trailing)
    if reason is not None:
        return Outcome("refused", reason=reason.name)
    code = error.code()
    return Outcome("none" if code in _UNKNOWN else "error", code=code.name)


def receipt_of(response: Any) -> dict[str, Any] | None:
    """The receipt in the answer to a revocation; None if there is none."""
    if "receipt" not in response.DESCRIPTOR.fields_by_name or not response.HasField("receipt"):
        return None
    receipt: receipt_pb2.Receipt = response.receipt
    by_state: dict[int, list[str]] = {}
    for node in receipt.nodes:
        by_state.setdefault(node.state, []).append(node.node_id)
    lagging = receipt_pb2.NodeReceipt.STATE_LAGGING
    return {
        "complete": receipt.complete,
        "strict_in": receipt.strict_in.ToNanoseconds() / 1e9,
        "applied": by_state.get(receipt_pb2.NodeReceipt.STATE_APPLIED, []),
        "lagging": by_state.get(lagging, []),
        "left": [node.node_id for node in receipt.nodes if node.lease_ended and node.state == lagging],
    }
