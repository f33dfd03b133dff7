"""Receipts: what it costs whoever revokes to wait until every node has acknowledged, rather than not to wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from bench.authority import PREFIX, Authority
from bench.machine import LOAD_CORES
from bench.nodes import running
from bench.results.statistics import Row, by_block, compare, interleave
from bench.run import Run
from bench.world import BenchFailed
from credmesh.admin.v1 import nodes_pb2, receipt_pb2, revocation_pb2

__all__ = ["check", "receipts"]

_WITHIN: Final = 30.0
_PAUSE: Final = 0.05
_REPLICAS: Final = 1
_MOST_NODES: Final = 1000


def receipts(run: Run) -> list[Row]:
    """Rows for each number of nodes: a revocation that is waited for, against one that is not."""
    rows: list[Row] = []
    with ExitStack() as stack:
        authority = stack.enter_context(Authority(run.world, cores=LOAD_CORES))
        ids: set[str] = set()
        for count in sorted(run.scale.nodes):
            # Those that are there stay: what is measured is how many answer, not that they are new.
            more = stack.enter_context(running(run, count - len(ids), prefix=PREFIX))
            ids |= {str(node.said["node"]) for node in more}
            rows += _rows(run, authority, ids)
    return rows


def _rows(run: Run, authority: Authority, ids: Collection[str]) -> list[Row]:
    registered = _registered(authority, ids)
    times = run.scale.receipts
    tick = run.begin(f"receipts of {len(ids)} nodes", 2 * times)
    variants = {
        "waited": lambda: _revoked(authority, registered),
        "not waited": lambda: _revoked(authority, None),
    }
    samples = interleave(variants, times, tick=tick)
    return [_row(len(ids), samples, percent) for percent in (50, 99)]


def _row(count: int, samples: Mapping[str, Sequence[float]], percent: float) -> Row:
    ours, peer = (by_block(samples[what], percent) for what in ("waited", "not waited"))
    name = f"a revocation with a receipt of all of {count} nodes, p{percent:g} ÷ one that nobody waits for"
    note = "the replica is one more node" if percent == 50 else ""
    return compare("revocation", name, ours, peer, unit="ms", higher=False, note=note)


def _registered(authority: Authority, ids: Collection[str]) -> frozenset[str]:
    """The ids of all nodes, once these are registered, and beside them the replica alone.

    Servers of the measurements before were killed, and stay on the list until their leases end.
    """
    deadline = time.monotonic() + _WITHIN
    pause = threading.Event()
    while True:
        request = nodes_pb2.ListNodesRequest(page_size=_MOST_NODES)
        listed = {node.node_id for node in authority.nodes.ListNodes(request, timeout=_WITHIN).nodes}
        if listed.issuperset(ids) and len(listed) == len(ids) + _REPLICAS:
            return frozenset(listed)
        if time.monotonic() > deadline:
            raise BenchFailed(f"{len(ids)} nodes and a replica should be registered, and {len(listed)} nodes are")
        pause.wait(_PAUSE)


def _revoked(authority: Authority, expected: frozenset[str] | None) -> float:
    """Milliseconds that a revocation takes, as whoever revokes sees it; with a receipt if nodes are expected in it."""
    request = revocation_pb2.RevokeRequest(subject=f"user-{time.monotonic_ns()}", wait=expected is not None)
    begun = time.perf_counter()
    answer = authority.revocation.Revoke(request, timeout=_WITHIN)
    took = (time.perf_counter() - begun) * 1000
    if expected is not None:
        check(answer.receipt, expected)
    return took


def check(receipt: receipt_pb2.Receipt, expected: Collection[str]) -> None:
    """BenchFailed unless each of these nodes, and no other, has acknowledged."""
    applied = {node.node_id for node in receipt.nodes if node.state == receipt_pb2.NodeReceipt.STATE_APPLIED}
    if not receipt.complete or applied != set(expected) or len(receipt.nodes) != len(expected):
        raise BenchFailed(
            f"a receipt lists {len(receipt.nodes)} nodes, {len(applied)} of which have acknowledged, where "
            f"{len(expected)} are registered; complete: {receipt.complete}"
        )
