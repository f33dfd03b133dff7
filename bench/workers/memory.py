"""What a node holds, in a process of its own: `python -m bench.workers.memory CORES SETTINGS`.

With {"cached": n} it verifies so many tokens; otherwise it starts a node on the given etcd. Either way it says by how
many bytes it grew, and how long it took. With tokens it then goes on: it is told {"checks": n} by lines, checks so many
of them in turn as a server does with every call, and says what one took.
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

from bench.machine import pin, resident_bytes
from bench.shop import RULE
from bench.verifying import Metadata, known_keys, metadata_of, microseconds, verifier_of, verify_new
from bench.world import Tokens
from interceptors import EtcdSettings, MeshNode, MeshSettings
from interceptors.verification.verifier import VerifiedCredential

__all__ = ["main"]


def main() -> None:
    """Does it, and waits to be told more or to be killed."""
    pin(json.loads(sys.argv[1]))
    settings: dict[str, Any] = json.loads(sys.argv[2])
    if "cached" in settings:
        _hold_tokens(settings["cached"])
    else:
        _hold_epochs(settings)


def _hold_tokens(count: int) -> None:
    tokens = Tokens()
    verifier = verifier_of(known_keys(tokens), cached=count)
    # Whoever calls holds the tokens too: they are here before anything is counted.
    presented = [metadata_of(tokens.make()) for _ in range(count)]
    grown = _Growth()
    for metadata in presented:
        verify_new(verifier, RULE, metadata)
    assert verifier.cached == count
    grown.say(time.perf_counter())
    gc.freeze()

    def check(metadata: Metadata) -> None:
        verified = verifier.check(RULE, metadata, time.time())
        assert verified.__class__ is VerifiedCredential, "the token was not kept"

    in_turn = itertools.cycle(presented)
    for line in sys.stdin:
        some = list(itertools.islice(in_turn, json.loads(line)["checks"]))
        _say({"microseconds": microseconds(check, some)})


def _hold_epochs(settings: dict[str, Any]) -> None:
    grown = _Growth()
    node = _node(settings)
    ready_at = time.perf_counter()
    # It is ready a moment before it has let go of what it read; then it watches.
    while not node.connected:
        time.sleep(0.01)
    grown.say(ready_at)
    threading.Event().wait()


class _Growth:
    """By how much this process grows from now on."""

    def __init__(self) -> None:
        gc.collect()
        self._before, self._begun = resident_bytes(os.getpid()), time.perf_counter()

    def say(self, done_at: float) -> None:
        """Says it, and the seconds until `done_at`."""
        gc.collect()
        _say({"bytes": resident_bytes(os.getpid()) - self._before, "seconds": done_at - self._begun})


def _node(settings: dict[str, Any]) -> MeshNode:
    etcd = EtcdSettings(endpoints=(settings["etcd"],), prefix=settings["prefix"], timeout=60)
    node = MeshNode(MeshSettings(etcd=etcd, service="inventory", issuer=settings["issuer"]))
    node.start(timeout=300)
    return node


def _say(message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
