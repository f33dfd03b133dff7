"""Receipts: how much longer a revocation takes if the caller waits until every node has acknowledged it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from bench.auth_replica import PREFIX, AuthReplica
from bench.environment import BenchFailed
from bench.machine import LOAD_CORES
from bench.nodes import run_nodes
from bench.results.statistics import Row, comparison_row, interleave, percentiles_by_block
from bench.suite import SuiteContext
from credmesh.admin.v1 import nodes_pb2, receipt_pb2, revocation_pb2

__all__ = ["check_receipt", "receipts"]

_TIMEOUT_SECONDS: Final = 30.0
_POLL_INTERVAL_SECONDS: Final = 0.05
_REPLICAS: Final = 1
_MAX_LISTED_NODES: Final = 1000


def receipts(context: SuiteContext) -> list[Row]:
    """Rows for each number of nodes: a revocation with a receipt, compared with one without."""
    rows: list[Row] = []
    with ExitStack() as stack:
        replica = stack.enter_context(AuthReplica(context.environment, cores=LOAD_CORES))
        ids: set[str] = set()
        for count in sorted(context.scale.nodes):
            # The nodes of the smaller number stay: the figure depends on how many nodes there are, not on their age.
            more = stack.enter_context(run_nodes(context, count - len(ids), prefix=PREFIX))
            ids |= {str(node.first_message["node"]) for node in more}
            rows += _rows(context, replica, ids)
    return rows


def _rows(context: SuiteContext, replica: AuthReplica, ids: Collection[str]) -> list[Row]:
    registered = _wait_until_registered(replica, ids)
    times = context.scale.receipts
    tick = context.begin_progress(f"receipts of {len(ids)} nodes", 2 * times)
    variants = {
        "with receipt": lambda: _revocation_milliseconds(replica, registered),
        "without": lambda: _revocation_milliseconds(replica, None),
    }
    samples = interleave(variants, times, tick=tick)
    return [_row(len(ids), samples, percent) for percent in (50, 99)]


def _row(count: int, samples: Mapping[str, Sequence[float]], percent: float) -> Row:
    ours, peer = (percentiles_by_block(samples[variant], percent) for variant in ("with receipt", "without"))
    nodes = f"{count} node{'s' if count > 1 else ''}"
    name = f"revocation with a receipt of {nodes}, p{percent:g} ÷ without waiting for a receipt"
    note = "the auth replica is one more node" if percent == 50 else ""
    return comparison_row("revocation", name, ours, peer, unit="ms", higher=False, note=note)


def _wait_until_registered(replica: AuthReplica, ids: Collection[str]) -> frozenset[str]:
    """Waits until exactly these nodes and the replica are registered. Returns the ids of all of them.

    The servers of earlier suites were killed, so they stay registered until their leases end.
    """
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    pause = threading.Event()
    while True:
        request = nodes_pb2.ListNodesRequest(page_size=_MAX_LISTED_NODES)
        listed = {node.node_id for node in replica.nodes.ListNodes(request, timeout=_TIMEOUT_SECONDS).nodes}
        if listed.issuperset(ids) and len(listed) == len(ids) + _REPLICAS:
            return frozenset(listed)
        if time.monotonic() > deadline:
            raise BenchFailed(f"{len(ids)} nodes and a replica should be registered, but {len(listed)} nodes are")
        pause.wait(_POLL_INTERVAL_SECONDS)


def _revocation_milliseconds(replica: AuthReplica, expected: frozenset[str] | None) -> float:
    """Revokes a subject and returns how long that took for the caller. With a receipt if `expected` names its nodes."""
    request = revocation_pb2.RevokeRequest(subject=f"user-{time.monotonic_ns()}", wait=expected is not None)
    started_at = time.perf_counter()
    answer = replica.revocation.Revoke(request, timeout=_TIMEOUT_SECONDS)
    milliseconds = (time.perf_counter() - started_at) * 1000
    if expected is not None:
        check_receipt(answer.receipt, expected)
    return milliseconds


def check_receipt(receipt: receipt_pb2.Receipt, expected: Collection[str]) -> None:
    """BenchFailed unless exactly the expected nodes are listed and all have acknowledged."""
    applied = {node.node_id for node in receipt.nodes if node.state == receipt_pb2.NodeReceipt.STATE_APPLIED}
    if not receipt.complete or applied != set(expected) or len(receipt.nodes) != len(expected):
        raise BenchFailed(
            f"a receipt lists {len(receipt.nodes)} nodes, of which {len(applied)} have acknowledged, but "
            f"{len(expected)} are registered; complete: {receipt.complete}"
        )
