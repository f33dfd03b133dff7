"""A node and a bare etcd watch, in one process: `python -m bench.workers.node CORES SETTINGS`.

For each message {"token": …}, the node opens a stream with that credential and says so. When the credential is revoked,
it sends the time at which a call with it is refused. It also sends the time of each event of the bare watch. All times
are nanoseconds of CLOCK_MONOTONIC, which the processes of a machine share.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from typing import Any

import grpc

from bench.machine import pin
from bench.shop import RULE
from interceptors import EtcdSettings, MeshNode, MeshSettings, Reason, Refusal
from interceptors.clock import ticks
from interceptors.etcd.compat import import_etcdrpc
from interceptors.node.open_streams import OpenStream

__all__ = ["main"]

_etcdrpc: Any = import_etcdrpc()


def main() -> None:
    """Runs until its input ends."""
    pin(json.loads(sys.argv[1]))
    settings: dict[str, Any] = json.loads(sys.argv[2])
    etcd = EtcdSettings(endpoints=(settings["etcd"],), prefix=settings["prefix"])
    node = MeshNode(MeshSettings(etcd=etcd, service="inventory", issuer=settings["issuer"]))
    node.start(timeout=60)
    watching = threading.Event()
    watcher = threading.Thread(target=_watch, args=(settings["etcd"], settings["bare"], watching), daemon=True)
    watcher.start()
    watching.wait(60)
    gc.freeze()
    _send({"ready": True, "node": node.id})
    for line in sys.stdin:
        _open_stream(node, json.loads(line)["token"])
        _send({"open": True})
    # Deregisters the node. Otherwise receipts would wait for it until its lease ends.
    node.stop()


def _open_stream(node: MeshNode, token: str) -> None:
    metadata = (("authorization", f"Bearer {token}"),)
    verified = node.lookups.run(node.verifier.verify(RULE, token, time.time()))

    def end(_: Refusal) -> None:
        try:
            node.verifier.verify_cached(RULE, node.verifier.read_credential(metadata), time.time())
        except Refusal as refusal:
            at = time.monotonic_ns()
            _send({"at": at, "refused": refusal.reason is Reason.CREDENTIAL_REVOKED})
        else:
            _send({"at": 0, "refused": False})

    node.streams.add(OpenStream(RULE.method, verified, ticks() + 3600, follows_session=False, end=end))


def _watch(endpoint: str, key: str, watching: threading.Event) -> None:
    """The cheapest possible watch: etcd's API without any processing of the events."""
    stub = _etcdrpc.WatchStub(grpc.insecure_channel(endpoint))
    create = _etcdrpc.WatchRequest(create_request=_etcdrpc.WatchCreateRequest(key=key.encode()))

    def requests() -> Any:
        yield create
        threading.Event().wait()

    for response in stub.Watch(requests()):
        if response.created:
            watching.set()
        elif response.events:
            _send({"at": time.monotonic_ns()})


def _send(message: object) -> None:
    # One write for each line, because two threads send messages.
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
