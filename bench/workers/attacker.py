"""Garbage tokens as fast as they can be sent, in a process of its own: `python -m bench.workers.attacker CORES
SETTINGS`.

It is told {"seconds": …} by lines, and answers how many calls were refused. One that was let in ends it.
"""

from __future__ import annotations

import itertools
import json
import secrets
import sys
from typing import Any

from bench.load.driver import connected, drive
from bench.load.http2 import Answer, CallFailed, encode
from bench.load.rounds import UNARY
from bench.machine import pin
from bench.world import Tokens

__all__ = ["main"]

_DIFFERENT = 200


def main() -> None:
    """Attacks as it is told, until it is killed."""
    pin(json.loads(sys.argv[1]))
    settings: dict[str, Any] = json.loads(sys.argv[2])
    port: int = settings["port"]
    garbage = _GARBAGE[settings["garbage"]]
    made = [garbage(settings["token"]) for _ in range(_DIFFERENT)]
    turn = itertools.cycle(encode(port, UNARY.path, UNARY.message, token=token) for token in made)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        with connected(port) as connections:
            load = drive(connections, turn.__next__, _refused, seconds=json.loads(line)["seconds"])
        print(json.dumps({"calls": load.calls, "seconds": load.seconds}), flush=True)


def _refused(answer: Answer) -> None:
    if answer.status == 0:
        raise CallFailed("garbage was let in")


def _forged(good: str) -> str:
    """A good token's header and claims under a signature of the right length: it has to be checked."""
    return good.rpartition(".")[0] + "." + Tokens().make().rpartition(".")[2]


def _random(good: str) -> str:
    """Three parts of the usual length and nothing in them."""
    return ".".join(secrets.token_urlsafe(len(part) * 3 // 4) for part in good.split("."))


_GARBAGE = {"forged": _forged, "random": _random}


if __name__ == "__main__":
    main()
