"""Hostile load: the latency of honest calls while an attacker sends garbage tokens.

The flood is the same for every server that is compared: a fixed rate, half of what the server with our interceptor
refuses at full speed. An attacker at full speed would not be the same flood: a server without an interceptor answers
more calls per second, so it would also be sent more.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from bench.load.driver import expect_exactly, make_calls, open_connections
from bench.load.http2 import encode
from bench.load.rounds import UNARY
from bench.machine import LOAD_CORES
from bench.processes import ServerKind, ServerUnderTest, WorkerProcess
from bench.results.statistics import (
    Row,
    common_rounds,
    comparison_row,
    interleave_targeted,
    percentile,
    single_row,
)
from bench.suite import SuiteContext

__all__ = ["hostile"]

_HONEST_CALLS_IN_FLIGHT: Final = 4
_WARM_CALLS: Final = 50
_MAX_FLOOD_SHORTFALL: Final = 0.05
_P99_TARGET: Final = 1.3

_FORGED, _RANDOM, _NO_ATTACK = "forged tokens", "random tokens", "no attack"
_FORGED_BARE, _RANDOM_BARE = "forged tokens, no interceptor", "random tokens, no interceptor"
_FORGED_PYJWT = "forged tokens, PyJWT by hand"


@dataclass(frozen=True, slots=True)
class _Round:
    """Milliseconds of honest calls, and the garbage tokens per second that the server answered."""

    p50: float
    p99: float
    flood_per_second: float


def hostile(context: SuiteContext) -> list[Row]:
    """Rows of the honest calls under a flood: with our interceptor ÷ without one, with PyJWT, and without a flood."""
    return [row for aio in context.scale.servers for row in _rows(context, aio=aio)]


def _rows(context: SuiteContext, *, aio: bool) -> list[Row]:
    kind, scale = "aio" if aio else "sync", context.scale
    with ExitStack() as stack:
        ours, bare, by_hand = (
            stack.enter_context(ServerUnderTest(ServerKind(aio=aio, interceptor=interceptor), context.environment))
            for interceptor in ("credmesh", "none", "handwritten")
        )
        token = context.environment.tokens.make()
        attacker = _start_attacker(stack, context, token)

        def honest(server: ServerUnderTest, garbage: str | None, rate: float | None) -> Callable[[], _Round]:
            refused = server is not bare
            return lambda: _measure(server, token, attacker, scale.seconds, garbage, rate, refused=refused)

        tick = context.begin_progress(f"garbage tokens at full speed, {kind} server", scale.rounds)
        at_full_speed = honest(ours, "forged", None)
        refused = []
        for _ in range(scale.rounds):
            refused.append(at_full_speed().flood_per_second)
            tick()
        rate = statistics.median(refused) / 2
        variants = {
            _NO_ATTACK: honest(ours, None, None),
            _FORGED: honest(ours, "forged", rate),
            _FORGED_BARE: honest(bare, "forged", rate),
            _FORGED_PYJWT: honest(by_hand, "forged", rate),
            _RANDOM: honest(ours, "random", rate),
            _RANDOM_BARE: honest(bare, "random", rate),
        }
        targeted = (_FORGED, _FORGED_BARE)
        steps = len(variants) * scale.rounds + len(targeted) * (scale.targeted - scale.rounds)
        tick = context.begin_progress(f"honest calls under garbage tokens, {kind} server", steps)
        rounds = interleave_targeted(variants, targeted, scale.rounds, scale.targeted, tick=tick)

    def row(percent: int, ours: str, peer: str, what: str, target: float | None = None) -> Row:
        return _row(f"{kind}, p{percent} of honest calls {what}", rounds, ours, peer, percent, rate, target)

    return [
        row(50, _FORGED, _FORGED_BARE, "under forged tokens ÷ under the same without an interceptor"),
        row(99, _FORGED, _FORGED_BARE, "under forged tokens ÷ under the same without an interceptor", _P99_TARGET),
        row(50, _RANDOM, _RANDOM_BARE, "under random tokens ÷ under the same without an interceptor"),
        row(99, _RANDOM, _RANDOM_BARE, "under random tokens ÷ under the same without an interceptor"),
        row(99, _FORGED, _FORGED_PYJWT, "under forged tokens ÷ under the same with PyJWT by hand"),
        row(99, _FORGED, _NO_ATTACK, "under forged tokens ÷ without an attack"),
        single_row("hostile", f"{kind}, forged tokens refused at full speed", refused, unit="1/s", higher=True),
    ]


def _row(
    name: str,
    rounds: Mapping[str, Sequence[_Round]],
    ours: str,
    peer: str,
    percent: int,
    rate: float,
    target: float | None,
) -> Row:
    both = common_rounds(rounds[ours], rounds[peer])
    figures = [[one.p50 if percent == 50 else one.p99 for one in side] for side in both]
    note = f"{rate:,.0f} tokens per second"
    medians = [statistics.median(one.flood_per_second for one in side) for side in both]
    answered = [median for median in medians if median]
    if min(answered) < rate * (1 - _MAX_FLOOD_SHORTFALL):
        note += f", of which were answered {' ÷ '.join(f'{median:,.0f}' for median in answered)}"
    return comparison_row("hostile", name, *figures, unit="ms", higher=False, target=target, note=note)


def _start_attacker(stack: ExitStack, context: SuiteContext, token: str) -> WorkerProcess:
    log_file = context.environment.log_file("attackers")
    attacker = WorkerProcess("bench.workers.attacker", {"token": token}, cores=LOAD_CORES, log_file=log_file)
    stack.callback(attacker.kill)
    return attacker


def _measure(
    server: ServerUnderTest,
    token: str,
    attacker: WorkerProcess,
    seconds: float,
    garbage: str | None,
    per_second: float | None,
    *,
    refused: bool,
) -> _Round:
    """One round of honest calls with a warm token, under a flood of garbage unless that is None."""
    request = itertools.repeat(encode(server.port, UNARY.path, UNARY.message, token=token))
    check = expect_exactly(UNARY.expected)
    with open_connections(server.port, count=1) as connections:
        make_calls(connections, request.__next__, check, calls=_WARM_CALLS)
        if garbage is not None:
            flood = {"port": server.port, "garbage": garbage, "per_second": per_second, "refused": refused}
            attacker.send({**flood, "seconds": seconds})
        load = make_calls(
            connections,
            request.__next__,
            check,
            seconds=seconds,
            in_flight=_HONEST_CALLS_IN_FLIGHT,
            timed=True,
        )
    answered = 0.0
    if garbage is not None:
        result = attacker.receive()
        answered = float(str(result["calls"])) / float(str(result["seconds"]))
    return _Round(percentile(load.latencies, 50) * 1000, percentile(load.latencies, 99) * 1000, answered)
