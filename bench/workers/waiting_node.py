"""A node that waits for an etcd, in a process of its own: `python -m bench.workers.waiting_node CORES SETTINGS`.

It says when it has begun to wait, and at what moment (CLOCK_MONOTONIC) it was ready.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from bench.machine import pin
from interceptors import EtcdSettings, MeshNode, MeshSettings

__all__ = ["main"]


def main() -> None:
    """Waits for etcd once, then to be killed."""
    pin(json.loads(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    etcd = EtcdSettings(endpoints=(settings["etcd"],), prefix=settings["prefix"])
    node = MeshNode(MeshSettings(etcd=etcd, service="inventory", issuer=settings["issuer"]))
    print(json.dumps({"waiting": True}), flush=True)
    node.start()
    print(json.dumps({"at": time.monotonic()}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
