"""So many nodes at once, each in a process of its own: see bench/workers/node.py."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from bench.machine import ALL_CORES
from bench.run import Run
from bench.world import ISSUER, PREFIX, Child

__all__ = ["BARE", "running"]

BARE: Final = "/bare-watch"
"""The key that the bare watch beside each node watches."""

_AT_ONCE: Final = 16


@contextmanager
def running(run: Run, count: int, *, prefix: str = PREFIX, cores: frozenset[int] = ALL_CORES) -> Iterator[list[Child]]:
    """Starts nodes of the mesh below a prefix, all at the same time; each has read the mesh.

    They leave the mesh when they end, rather than die: whoever counts on every registered node is not held up by them.
    """
    settings = {"etcd": run.world.etcd.endpoint, "prefix": prefix, "issuer": ISSUER, "bare": BARE}
    log_file = run.world.folder / "nodes.log"
    tick = run.begin(f"starting {count} nodes", count)
    nodes: list[Child] = []
    try:
        # Should one not start, those before it are on the list.
        nodes.extend(
            Child("bench.workers.node", settings, cores=cores, log_file=log_file, ready=False) for _ in range(count)
        )
        for node in nodes:
            node.listen()
            tick()
        yield nodes
    finally:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            # The list is what brings an exception here: of a node that did not end.
            list(pool.map(Child.end, nodes))
