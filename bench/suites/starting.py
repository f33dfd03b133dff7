"""Starting: a node that waits for etcd, and a whole mesh."""

from __future__ import annotations

import shutil
import time
from typing import Final

from bench.environment import ISSUER, PREFIX
from bench.machine import ALL_CORES
from bench.processes import WorkerProcess
from bench.results.statistics import Row, single_row
from bench.suite import SuiteContext
from localmesh.etcd.process import EtcdProcess

__all__ = ["starting"]

_NODE_TARGET_SECONDS: Final = 0.5
_MESH_TARGET_SECONDS: Final = 5.0
_MIN_SECONDS: Final = 0.001


def starting(context: SuiteContext) -> list[Row]:
    """Rows in seconds."""
    rows = [_node_after_etcd(context)]
    return rows + ([_mesh(context)] if context.scale.mesh_starts else [])


def _node_after_etcd(context: SuiteContext) -> Row:
    """A node that starts before etcd: the time from etcd's first answer until the node has read the mesh."""
    environment = context.environment
    tick = context.begin_progress("nodes that wait for etcd", context.scale.starts)
    seconds: list[float] = []
    # This etcd keeps its data between the rounds, as after an outage.
    etcd = EtcdProcess(environment.folder / "late-etcd", log_file=environment.log_file("late-etcd"))
    etcd.start()
    try:
        for _ in range(context.scale.starts):
            etcd.stop()
            settings = {"etcd": etcd.endpoint, "prefix": PREFIX, "issuer": ISSUER}
            log_file = environment.log_file("nodes")
            node = WorkerProcess("bench.workers.waiting_node", settings, cores=ALL_CORES, log_file=log_file)
            try:
                # Long enough that the node's retries are as far apart as in a long outage.
                time.sleep(context.scale.away_seconds)
                etcd.start()
                answered_at = time.monotonic()
                seconds.append(max(_MIN_SECONDS, float(str(node.receive()["at"])) - answered_at))
            finally:
                node.kill()
            tick()
    finally:
        etcd.kill()
    name = f"node ready after etcd's first answer, for which it waited {context.scale.away_seconds:g} s"
    return single_row("starting", name, seconds, unit="s", higher=False, target=_NODE_TARGET_SECONDS)


def _mesh(context: SuiteContext) -> Row:
    """A new mesh: etcd, two auth replicas, three services, certificates and accounts."""
    tick = context.begin_progress("whole meshes", context.scale.mesh_starts)
    log_file = context.environment.log_file("mesh")
    seconds: list[float] = []
    for _ in range(context.scale.mesh_starts):
        folder = context.environment.folder / "mesh"
        worker = WorkerProcess("bench.workers.mesh", {"folder": str(folder)}, cores=ALL_CORES, log_file=log_file)
        seconds.append(float(str(worker.first_message["seconds"])))
        worker.finish()
        shutil.rmtree(folder, ignore_errors=True)
        tick()
    return single_row(
        "starting",
        "start of a new local mesh, until every part is up",
        seconds,
        unit="s",
        higher=False,
        target=_MESH_TARGET_SECONDS,
    )
