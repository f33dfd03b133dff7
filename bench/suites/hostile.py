"""Hostile load: what honest callers notice while others send garbage tokens as fast as they can."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from bench.load.driver import connected, drive, exactly
from bench.load.http2 import encode
from bench.load.rounds import UNARY
from bench.machine import LOAD_CORES
from bench.results.statistics import Row, alone, compare, interleave, percentile
from bench.run import Run
from bench.world import Child, Server, ServerKind

__all__ = ["hostile"]

_HONEST: Final = 4
"""Honest calls under way at any time."""
_WARM_CALLS: Final = 50


def hostile(run: Run) -> list[Row]:
    """Rows of the honest callers' 99th percentile: ours attacked against ours in peace, and against PyJWT attacked."""
    return [row for aio in run.scale.servers for row in _rows(run, aio=aio)]


def _rows(run: Run, *, aio: bool) -> list[Row]:
    kind = "aio" if aio else "sync"
    refused: list[float] = []
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(Server(ServerKind(aio=aio, guard=guard), run.world))
            for guard in ("credmesh", "handwritten")
        )
        variants = {
            "in peace": _honest(stack, run, ours, None, refused),
            "forged": _honest(stack, run, ours, "forged", refused),
            "forged, PyJWT": _honest(stack, run, theirs, "forged", []),
            "random": _honest(stack, run, ours, "random", []),
        }
        tick = run.begin(f"hostile load, {kind} server", len(variants) * run.scale.rounds)
        samples = interleave(variants, run.scale.rounds, tick=tick)

    def row(what: str, attacked: str, peer: str) -> Row:
        name = f"{kind}, p99 of honest calls: {what}"
        return compare("hostile", name, samples[attacked], samples[peer], unit="ms", higher=False)

    return [
        row("under forged tokens ÷ in peace", "forged", "in peace"),
        row("under random tokens ÷ in peace", "random", "in peace"),
        row("under forged tokens ÷ PyJWT by hand under the same", "forged", "forged, PyJWT"),
        alone("hostile", f"{kind}, forged tokens refused", refused, unit="1/s", higher=True),
    ]


def _honest(
    stack: ExitStack, run: Run, server: Server, garbage: str | None, refused: list[float]
) -> Callable[[], float]:
    """A round of honest calls with a warm token, attacked or not; the 99th percentile of their latency, in ms."""
    token = run.world.tokens.make()
    turn = itertools.repeat(encode(server.port, UNARY.path, UNARY.message, token=token))
    check = exactly(UNARY.expected)
    attacker: Child | None = None
    if garbage is not None:
        settings = {"port": server.port, "garbage": garbage, "token": token}
        log_file = run.world.folder / "attackers.log"
        attacker = Child("bench.workers.attacker", settings, cores=LOAD_CORES, log_file=log_file)
        stack.callback(attacker.stop)

    def measure() -> float:
        with connected(server.port, count=1) as connections:
            drive(connections, turn.__next__, check, calls=_WARM_CALLS)
            if attacker is not None:
                attacker.tell({"seconds": run.scale.seconds})
            load = drive(connections, turn.__next__, check, seconds=run.scale.seconds, in_flight=_HONEST, timed=True)
        if attacker is not None:
            said = attacker.hear()
            refused.append(float(str(said["calls"])) / float(str(said["seconds"])))
        return percentile(load.latencies, 99) * 1000

    return measure
