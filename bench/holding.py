"""What a node holds, in a process of its own: `python -m bench.holding CORES SETTINGS`.

With {"cached": n} it verifies so many tokens; otherwise it starts a node on the given etcd. Either way it says by how
many bytes it grew, and how long it took.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from typing import Any

from bench.machine import pin, resident_bytes
from bench.shop import RULE
from bench.verifying import known_keys, verifier_of
from bench.world import Tokens
from interceptors import EtcdSettings, MeshNode, MeshSettings

__all__ = ["main"]


def main() -> None:
    """Does it once, then waits to be killed."""
    pin(json.loads(sys.argv[1]))
    settings: dict[str, Any] = json.loads(sys.argv[2])
    before, begun = resident_bytes(os.getpid()), time.perf_counter()
    held: object
    if "cached" in settings:
        held = _verified(settings["cached"])
        seconds = time.perf_counter() - begun
    else:
        held = node = _node(settings)
        seconds = time.perf_counter() - begun
        # It is ready a moment before it has let go of what it read; then it watches.
        while not node.connected:
            time.sleep(0.01)
    gc.collect()
    print(json.dumps({"bytes": resident_bytes(os.getpid()) - before, "seconds": seconds}), flush=True)
    threading.Event().wait()
    del held


def _verified(count: int) -> object:
    tokens = Tokens()
    verifier = verifier_of(known_keys(tokens), cached=count)
    for _ in range(count):
        flow = verifier.flow(RULE, tokens.make(), time.time())
        try:
            next(flow)
        except StopIteration:
            continue
        raise AssertionError("the key was unknown")
    assert verifier.cached == count
    return verifier


def _node(settings: dict[str, Any]) -> MeshNode:
    etcd = EtcdSettings(endpoints=(settings["etcd"],), prefix=settings["prefix"], timeout=60)
    node = MeshNode(MeshSettings(etcd=etcd, service="inventory", issuer=settings["issuer"]))
    node.start(timeout=300)
    return node


if __name__ == "__main__":
    main()
