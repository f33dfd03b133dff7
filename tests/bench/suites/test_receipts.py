"""A receipt is measured only if it names every node as applied. Any other receipt fails the run."""

from __future__ import annotations

import pytest

from bench.environment import BenchFailed
from bench.suites.receipts import check_receipt
from credmesh.admin.v1.receipt_pb2 import NodeReceipt, Receipt


def receipt(*nodes: str, lagging: str | None = None, complete: bool = True) -> Receipt:
    """A receipt of these nodes. All have applied the revocation, except `lagging`."""
    return Receipt(
        complete=complete,
        nodes=[
            NodeReceipt(
                node_id=node,
                state=NodeReceipt.STATE_LAGGING if node == lagging else NodeReceipt.STATE_APPLIED,
            )
            for node in nodes
        ],
    )


def test_a_receipt_of_every_node_is_accepted() -> None:
    check_receipt(receipt("a", "b"), {"a", "b"})


@pytest.mark.parametrize(
    "other",
    [
        receipt("a", "b", complete=False),
        receipt("a"),
        receipt("a", "c"),
        receipt("a", "b", "c"),
        # The lease of b has ended, so the receipt is complete without b.
        receipt("a", "b", lagging="b"),
        receipt("a", "b", "c", lagging="c"),
        Receipt(),
    ],
    ids=["incomplete", "one missing", "another node", "one too many", "one lags", "another node lags", "empty"],
)
def test_a_receipt_that_does_not_cover_every_node_fails_the_run(other: Receipt) -> None:
    with pytest.raises(BenchFailed, match="2 are registered"):
        check_receipt(other, {"a", "b"})
