"""Sends garbage tokens to a server, in its own process: `python -m bench.workers.attacker CORES SETTINGS`.

SETTINGS has a valid `token`, from which forged ones are made. Each message is one attack:

port        of the server
garbage     "forged" or "random"
seconds     how long to attack
per_second  how many tokens to send per second; null for full speed
refused     whether the server must refuse them; one without an interceptor answers them

The answer has the number of calls that ended, and the seconds that this took. A call with another outcome ends the
process.
"""

from __future__ import annotations

import itertools
import json
import secrets
import sys
from collections.abc import Callable
from typing import Any, Final

from bench.load.driver import expect_exactly, make_calls, open_connections
from bench.load.http2 import CallFailed, Response, encode
from bench.load.rounds import UNARY
from bench.machine import pin
from localmesh.forged_tokens import signed_by_another_key

__all__ = ["main"]

_TOKENS: Final = 200
_IN_FLIGHT_AT_FULL_SPEED: Final = 16
_MAX_IN_FLIGHT_AT_A_RATE: Final = 200


def main() -> None:
    """Attacks as the messages say, until it is killed."""
    pin(json.loads(sys.argv[1]))
    valid_token: str = json.loads(sys.argv[2])["token"]
    tokens = {name: [make(valid_token) for _ in range(_TOKENS)] for name, make in _GARBAGE.items()}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_attack(tokens, **json.loads(line))), flush=True)


def _attack(
    tokens: dict[str, list[str]], *, port: int, garbage: str, seconds: float, per_second: float | None, refused: bool
) -> dict[str, Any]:
    encoded = (encode(port, UNARY.path, UNARY.message, token=token) for token in tokens[garbage])
    with open_connections(port) as connections:
        load = make_calls(
            connections,
            itertools.cycle(encoded).__next__,
            _expect_refusal if refused else expect_exactly(UNARY.expected),
            seconds=seconds,
            in_flight=_IN_FLIGHT_AT_FULL_SPEED if per_second is None else _MAX_IN_FLIGHT_AT_A_RATE,
            per_second=per_second,
        )
    return {"calls": load.calls, "seconds": load.seconds}


def _expect_refusal(response: Response) -> None:
    if response.status == 0:
        raise CallFailed("the server accepted a garbage token")


def _random(valid_token: str) -> str:
    """Three parts of random text, each as long as that of a valid token."""
    return ".".join(secrets.token_urlsafe(len(part) * 3 // 4) for part in valid_token.split("."))


_GARBAGE: Final[dict[str, Callable[[str], str]]] = {
    # The signature has the right form, so the server must verify it to refuse the token.
    "forged": signed_by_another_key,
    "random": _random,
}


if __name__ == "__main__":
    main()
