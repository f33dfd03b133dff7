"""Many nodes at once, each in its own process: see bench/workers/node.py."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from bench.environment import ISSUER, PREFIX
from bench.machine import ALL_CORES
from bench.processes import WorkerProcess
from bench.suite import SuiteContext

__all__ = ["BARE_WATCH_KEY", "run_nodes"]

BARE_WATCH_KEY: Final = "/bare-watch"
"""The etcd key that the bare watch in each node's process watches."""

_MAX_NODES_STOPPING_AT_ONCE: Final = 16


@contextmanager
def run_nodes(
    context: SuiteContext, count: int, *, prefix: str = PREFIX, cores: frozenset[int] = ALL_CORES
) -> Iterator[list[WorkerProcess]]:
    """Starts nodes of the mesh below a prefix, all at the same time, and waits until each has read the mesh.

    Afterwards they deregister and end. A node that is killed stays registered until its lease ends, and a receipt would
    wait for it.
    """
    settings = {"etcd": context.environment.etcd.endpoint, "prefix": prefix, "issuer": ISSUER, "bare": BARE_WATCH_KEY}
    log_file = context.environment.log_file("nodes")
    tick = context.begin_progress(f"starting {count} nodes", count)
    nodes: list[WorkerProcess] = []
    try:
        # `extend` with a generator: if one start fails, the nodes before it are in the list and are stopped.
        nodes.extend(
            WorkerProcess("bench.workers.node", settings, cores=cores, log_file=log_file, wait_until_ready=False)
            for _ in range(count)
        )
        for node in nodes:
            node.wait_until_ready()
            tick()
        yield nodes
    finally:
        with ThreadPoolExecutor(_MAX_NODES_STOPPING_AT_ONCE) as pool:
            # `list` raises the exception of a node that did not end.
            list(pool.map(WorkerProcess.finish, nodes))
