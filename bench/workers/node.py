"""A node, and a bare etcd watch beside it, in a process of their own: `python -m bench.workers.node CORES SETTINGS`.

It is told {"token": …} by lines: it then holds a stream under that credential and says so; and when the credential is
revoked it says at what moment a call was refused. Of what the bare watch brings it says the moment too. All moments are
of CLOCK_MONOTONIC, which the processes of a machine share.
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
from interceptors.node.open_streams import OpenCall

__all__ = ["main"]

_etcdrpc: Any = import_etcdrpc()


def main() -> None:
    """Watches until its input ends."""
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
    _say({"ready": True, "node": node.id})
    for line in sys.stdin:
        _hold(node, json.loads(line)["token"])
        _say({"held": True})
    # Whoever waits for every registered node must not wait for this one until its lease ends.
    node.stop()


def _hold(node: MeshNode, token: str) -> None:
    metadata = (("authorization", f"Bearer {token}"),)
    verified: Any = node.asker.run(node.verifier.flow(RULE, token, time.time()))

    def end(_: Refusal) -> None:
        try:
            node.verifier.check(RULE, metadata, time.time())
        except Refusal as refusal:
            at = time.monotonic_ns()
            _say({"at": at, "refused": refusal.reason is Reason.CREDENTIAL_REVOKED})
        else:
            _say({"at": 0, "refused": False})

    node.calls.add(OpenCall(RULE.method, verified, ticks() + 3600, following=False, end=end))


def _watch(endpoint: str, key: str, watching: threading.Event) -> None:
    """The least that a watch can be: etcd's own API, and nothing done with what it brings."""
    stub = _etcdrpc.WatchStub(grpc.insecure_channel(endpoint))
    create = _etcdrpc.WatchRequest(create_request=_etcdrpc.WatchCreateRequest(key=key.encode()))

    def requests() -> Any:
        yield create
        threading.Event().wait()

    for response in stub.Watch(requests()):
        if response.created:
            watching.set()
        elif response.events:
            _say({"at": time.monotonic_ns()})


def _say(message: object) -> None:
    # One write, so that two threads do not share a line.
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
