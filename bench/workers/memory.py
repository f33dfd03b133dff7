"""The memory of a node, in its own process: `python -m bench.workers.memory CORES SETTINGS`.

With {"cached": n} in SETTINGS it verifies so many tokens; otherwise it starts a node on the given etcd. Its first
message says by how many bytes the process grew, and how long that took. With tokens, it then answers messages
{"verifications": n}: it verifies so many of the cached tokens in turn, and answers the CPU microseconds of each.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import threading
import time
from typing import Any

from bench.environment import TokenFactory
from bench.machine import pin, resident_bytes
from bench.shop import RULE
from bench.verifying import Metadata, bearer_metadata, bundle_with_key, cpu_microseconds_each, make_verifier, verify_new
from interceptors import EtcdSettings, MeshNode, MeshSettings

__all__ = ["main"]


def main() -> None:
    """Measures, then answers messages or waits until it is killed."""
    pin(json.loads(sys.argv[1]))
    settings: dict[str, Any] = json.loads(sys.argv[2])
    if "cached" in settings:
        _cache_tokens(settings["cached"])
    else:
        _start_node(settings)


def _cache_tokens(count: int) -> None:
    tokens = TokenFactory()
    verifier = make_verifier(bundle_with_key(tokens), cached=count)
    # In a server, gRPC holds the tokens of the calls. So they exist before the memory of the cache is counted.
    presented = [bearer_metadata(tokens.make()) for _ in range(count)]
    grown = _Growth()
    for metadata in presented:
        verify_new(verifier, RULE, metadata)
    assert verifier.cached == count
    grown.report(time.perf_counter())
    gc.freeze()

    def verify(metadata: Metadata) -> None:
        verified = verifier.verify_cached(RULE, verifier.read_credential(metadata), time.time())
        assert verified is not None, "the token is not in the cache"

    in_turn = itertools.cycle(presented)
    for line in sys.stdin:
        chosen = list(itertools.islice(in_turn, json.loads(line)["verifications"]))
        _send({"microseconds": cpu_microseconds_each(verify, chosen)})


def _start_node(settings: dict[str, Any]) -> None:
    grown = _Growth()
    node = _node(settings)
    ready_at = time.perf_counter()
    # The node is ready shortly before it frees the snapshot that it read. It has freed it when it is connected.
    while not node.connected:
        time.sleep(0.01)
    grown.report(ready_at)
    threading.Event().wait()


class _Growth:
    """The growth of this process's memory since the object was created."""

    def __init__(self) -> None:
        gc.collect()
        self._before, self._started_at = resident_bytes(os.getpid()), time.perf_counter()

    def report(self, done_at: float) -> None:
        """Sends the growth, and the seconds until `done_at`."""
        gc.collect()
        _send({"bytes": resident_bytes(os.getpid()) - self._before, "seconds": done_at - self._started_at})


def _node(settings: dict[str, Any]) -> MeshNode:
    etcd = EtcdSettings(endpoints=(settings["etcd"],), prefix=settings["prefix"], timeout=60)
    node = MeshNode(MeshSettings(etcd=etcd, service="inventory", issuer=settings["issuer"]))
    node.start(timeout=300)
    return node


def _send(message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
