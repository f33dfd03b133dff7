"""A node that starts before its etcd, in its own process: `python -m bench.workers.waiting_node CORES SETTINGS`.

Its first message says that it waits, the second one when it was ready, in seconds of CLOCK_MONOTONIC.
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
    """Waits until the node is ready, and then until it is killed."""
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
