"""The client's side: the cost of attaching a credential to a call, and whether calls wait for a refresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Final

from bench.auth_replica import PREFIX, AuthReplica
from bench.load.rounds import Sample
from bench.machine import LOAD_CORES, SERVING_CORES, cpu_seconds
from bench.processes import ServerKind, ServerUnderTest, WorkerProcess
from bench.results.statistics import Row, comparison_row, count_row, interleave, missing_peer_row
from bench.suite import SuiteContext

__all__ = ["client"]

_TOKEN_LIFETIME_SECONDS: Final = 3
# A client renews a token after four fifths of its lifetime at the latest. Here 0.6 s are left then, so the token does
# not expire while the auth service is frozen, and no call has a reason to wait.
_MAX_FROZEN_SECONDS: Final = 0.6
# Long enough for the answer to a refresh that started during the wave, too short for a refresh that starts afterwards.
_REFRESH_ANSWER_SECONDS: Final = 0.05
_WAVE_TARGET: Final = 1.25


@dataclass(frozen=True, slots=True)
class _Wave:
    """Calls made at once.

    milliseconds  until the last call was answered
    failed        how many calls failed
    refreshed     whether a refresh started during the wave
    """

    milliseconds: float
    failed: int
    refreshed: bool


def client(context: SuiteContext) -> list[Row]:
    """Rows of clients that sign in, compared with clients without a credential or with a fixed token."""
    with AuthReplica(context.environment, cores=LOAD_CORES) as replica:
        rows = [row for aio in context.scale.servers for row in _attaching(context, replica, aio=aio)]
    short_lived = {"CREDMESH_TOKEN_LIFETIME": str(_TOKEN_LIFETIME_SECONDS)}
    with AuthReplica(context.environment, cores=LOAD_CORES, environ=short_lived) as replica:
        return rows + [row for aio in context.scale.servers for row in _refreshing(context, replica, aio=aio)]


def _attaching(context: SuiteContext, replica: AuthReplica, *, aio: bool) -> list[Row]:
    kind = "aio" if aio else "sync"
    log_file = context.environment.log_file("clients")
    tick = context.begin_progress(f"{kind} client", 2 * context.scale.rounds)
    with ExitStack() as stack:
        # Here the client is under test, so it gets the serving core and the server does not.
        server = stack.enter_context(ServerUnderTest(ServerKind(aio=False), context.environment, cores=LOAD_CORES))
        variants: dict[str, Callable[[], Sample]] = {}
        for source in ("password", "none"):
            settings = {"aio": aio, "credentials": source, "auth": replica.target, "target": f"127.0.0.1:{server.port}"}
            worker = WorkerProcess("bench.workers.client", settings, cores=SERVING_CORES, log_file=log_file)
            stack.callback(worker.kill)
            variants[source] = _round_of(worker, context.scale.seconds)
        samples = interleave(variants, context.scale.rounds, tick=tick)
    rates, costs = (
        [[getattr(one, figure) for one in samples[source]] for source in ("password", "none")]
        for figure in ("per_second", "cpu_microseconds")
    )
    name = f"{kind} client: signed in ÷ without a credential"
    return [
        comparison_row("client", name, *rates, unit="calls/s", higher=True),
        comparison_row("client", f"{name}, CPU per call", *costs, unit="µs CPU", higher=False),
    ]


def _round_of(worker: WorkerProcess, seconds: float) -> Callable[[], Sample]:
    def measure() -> Sample:
        before = cpu_seconds(worker.pid)
        worker.send({"seconds": seconds})
        result = worker.receive()
        cpu, calls = cpu_seconds(worker.pid) - before, int(str(result["calls"]))
        return Sample(calls / float(str(result["seconds"])), cpu / calls * 1e6)

    return measure


def _refreshing(context: SuiteContext, replica: AuthReplica, *, aio: bool) -> list[Row]:
    """Waves of calls that are made at once, over the lifetimes of several tokens.

    The auth service is frozen during a wave. So a call that waits for a refresh is answered only after that, and not
    just some milliseconds later than the others, which could not be distinguished from the noise of the machine.
    """
    size, waves, kind = context.scale.concurrent, context.scale.waves, "aio" if aio else "sync"
    log_file = context.environment.log_file("clients")
    tick = context.begin_progress(f"{size:,} calls at once across refreshes, {kind} client", 2 * waves)
    with ExitStack() as stack:
        variants: dict[str, Callable[[], _Wave]] = {}
        for source, prefix in (("password", PREFIX), ("token", None)):
            server_kind = ServerKind(aio=True, interceptor="credmesh")
            server = stack.enter_context(ServerUnderTest(server_kind, context.environment, prefix=prefix))
            settings = {
                "aio": aio,
                "credentials": source,
                "token": context.environment.tokens.make(),
                "auth": replica.target,
                "target": f"127.0.0.1:{server.port}",
            }
            worker = WorkerProcess("bench.workers.client", settings, cores=LOAD_CORES, log_file=log_file)
            stack.callback(worker.kill)
            variants[source] = _wave_of(worker, size, replica if source == "password" else None)
        outcomes = interleave(variants, waves, tick=tick)
    return _wave_rows(kind, size, outcomes["password"], outcomes["token"])


def _wave_rows(kind: str, size: int, ours: Sequence[_Wave], peer: Sequence[_Wave]) -> list[Row]:
    refreshed = [(one, other) for one, other in zip(ours, peer, strict=True) if one.refreshed]
    name = f"{kind} client, {size:,} calls at once until the last answer: during a refresh ÷ with a fixed token"
    if refreshed:
        row = comparison_row(
            "client",
            name,
            [one.milliseconds for one, _ in refreshed],
            [other.milliseconds for _, other in refreshed],
            unit="ms",
            higher=False,
            target=_WAVE_TARGET,
            note=f"{len(refreshed)} of {len(ours)} waves met a refresh; the auth service was frozen meanwhile",
        )
    else:
        row = missing_peer_row(
            "client",
            name,
            [one.milliseconds for one in ours],
            unit="ms",
            higher=False,
            target=_WAVE_TARGET,
            note="no wave met a refresh",
        )
    failed = sum(one.failed for one in ours)
    failed_row = count_row(
        "client", f"{kind} client, failed calls of these waves", failed, unit="calls", higher=False, target=0.0
    )
    return [row, failed_row]


def _wave_of(worker: WorkerProcess, size: int, replica: AuthReplica | None) -> Callable[[], _Wave]:
    def measure() -> _Wave:
        with nullcontext() if replica is None else replica.frozen(_MAX_FROZEN_SECONDS):
            worker.send({"wave": size})
            result = worker.receive()
        milliseconds, failed = float(str(result["slowest"])) * 1000, int(str(result["failed"]))
        if replica is None:
            return _Wave(milliseconds, failed, refreshed=False)
        # After this pause, the client has the credential that it asked for during the wave.
        worker.send({"pause": _REFRESH_ANSWER_SECONDS})
        obtained = int(str(worker.receive()["obtained"])) - int(str(result["obtained"]))
        return _Wave(milliseconds, failed, refreshed=obtained > 0)

    return measure
