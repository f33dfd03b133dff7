"""Starting: a node when etcd is there, when etcd comes later, and a whole mesh."""

from __future__ import annotations

import shutil
import time
from typing import Final

from bench.machine import ALL_CORES
from bench.results.statistics import Row, alone
from bench.run import Run
from bench.world import ISSUER, PREFIX, Child
from localmesh.etcd.process import EtcdProcess

__all__ = ["starting"]

_NODE_TARGET: Final = 0.5
_MESH_TARGET: Final = 5.0


def starting(run: Run) -> list[Row]:
    """Rows in seconds."""
    rows = [_after_etcd(run)]
    return rows + ([_mesh(run)] if run.scale.mesh_starts else [])


def _after_etcd(run: Run) -> Row:
    """A node that was there first: how long after etcd's first answer it has read the mesh."""
    world = run.world
    tick = run.begin("nodes that wait for etcd", run.scale.starts)
    seconds: list[float] = []
    # Its data survives, so that it starts as it would after an outage.
    etcd = EtcdProcess(world.folder / "late-etcd", log_file=world.folder / "late-etcd.log")
    etcd.start()
    try:
        for _ in range(run.scale.starts):
            etcd.stop()
            settings = {"etcd": etcd.endpoint, "prefix": PREFIX, "issuer": ISSUER}
            node = Child("bench.workers.waiting_node", settings, cores=ALL_CORES, log_file=world.folder / "nodes.log")
            try:
                # Long enough for the node to have become used to etcd's absence.
                time.sleep(run.scale.away_seconds)
                etcd.start()
                answered = time.monotonic()
                seconds.append(max(0.001, float(str(node.hear()["at"])) - answered))
            finally:
                node.stop()
            tick()
    finally:
        etcd.kill()
    name = f"node ready after etcd's first answer, having waited {run.scale.away_seconds:g} s for it"
    return alone("starting", name, seconds, unit="s", higher=False, target=_NODE_TARGET)


def _mesh(run: Run) -> Row:
    """etcd, two auth replicas, three services, certificates and accounts, from nothing."""
    tick = run.begin("whole meshes", run.scale.mesh_starts)
    seconds: list[float] = []
    for _ in range(run.scale.mesh_starts):
        folder = run.world.folder / "mesh"
        child = Child(
            "bench.workers.mesh", {"folder": str(folder)}, cores=ALL_CORES, log_file=run.world.folder / "raising.log"
        )
        seconds.append(float(str(child.said["seconds"])))
        child.end()
        shutil.rmtree(folder, ignore_errors=True)
        tick()
    return alone(
        "starting", "the whole local mesh up, from nothing", seconds, unit="s", higher=False, target=_MESH_TARGET
    )
