"""A receipt counts only if it says of every node that it has acknowledged: anything less fails the run."""

from __future__ import annotations

import pytest

from bench.suites.receipts import check
from bench.world import BenchFailed
from credmesh.admin.v1.receipt_pb2 import NodeReceipt, Receipt


def receipt(*nodes: str, lagging: str | None = None, complete: bool = True) -> Receipt:
    """A receipt in which all but one have acknowledged."""
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


def test_a_receipt_of_every_node_is_a_receipt() -> None:
    check(receipt("a", "b"), {"a", "b"})


@pytest.mark.parametrize(
    "short",
    [
        receipt("a", "b", complete=False),
        receipt("a"),
        receipt("a", "c"),
        receipt("a", "b", "c"),
        # Its lease had ended, so that the receipt is complete without it.
        receipt("a", "b", lagging="b"),
        receipt("a", "b", "c", lagging="c"),
        Receipt(),
    ],
    ids=["incomplete", "one is missing", "another one", "one too many", "one lags", "another one lags", "empty"],
)
def test_a_receipt_that_does_not_speak_for_every_node_fails_the_run(short: Receipt) -> None:
    with pytest.raises(BenchFailed, match="2 are registered"):
        check(short, {"a", "b"})
