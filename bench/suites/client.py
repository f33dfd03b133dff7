"""The client's side: what attaching a credential costs a call, and whether anybody notices a refresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Final

from bench.authority import PREFIX, Authority
from bench.load.rounds import Sample
from bench.machine import LOAD_CORES, SERVING_CORES, cpu_seconds
from bench.results.statistics import Row, absent, compare, interleave, total
from bench.run import Run
from bench.world import Child, Server, ServerKind

__all__ = ["client"]

_TOKEN_LIFETIME: Final = 3
# At the latest a token is renewed after four fifths of its life. It has not expired when the auth service goes on: so
# there is a good one in hand all the time, and no reason for any call to wait.
_STOPPED_AT_MOST: Final = 0.6
# As long as a refresh takes once it is answered, and no longer: one that falls due only now was in no call's way.
_SETTLED: Final = 0.05
_STALL_TARGET: Final = 1.25


@dataclass(frozen=True, slots=True)
class _Wave:
    """Calls made at once: until the last was answered, how many failed, and whether a refresh was due meanwhile."""

    milliseconds: float
    failed: int
    refreshed: bool


def client(run: Run) -> list[Row]:
    """Rows of clients that sign in, against clients without a credential, and with one that never changes."""
    with Authority(run.world, cores=LOAD_CORES) as authority:
        rows = [row for aio in run.scale.servers for row in _attaching(run, authority, aio=aio)]
    short = {"CREDMESH_TOKEN_LIFETIME": str(_TOKEN_LIFETIME)}
    with Authority(run.world, cores=LOAD_CORES, environ=short) as authority:
        return rows + [row for aio in run.scale.servers for row in _refreshing(run, authority, aio=aio)]


def _attaching(run: Run, authority: Authority, *, aio: bool) -> list[Row]:
    name = "aio" if aio else "sync"
    tick = run.begin(f"{name} client", 2 * run.scale.rounds)
    with ExitStack() as stack:
        # The client is what is measured, so it is the client that has the serving core.
        server = stack.enter_context(Server(ServerKind(aio=False), run.world, cores=LOAD_CORES))
        variants: dict[str, Callable[[], Sample]] = {}
        for what in ("password", "none"):
            settings = {"aio": aio, "credentials": what, "auth": authority.target, "target": f"127.0.0.1:{server.port}"}
            child = Child(
                "bench.workers.client", settings, cores=SERVING_CORES, log_file=run.world.folder / "clients.log"
            )
            stack.callback(child.stop)
            variants[what] = _round_of(child, run.scale.seconds)
        samples = interleave(variants, run.scale.rounds, tick=tick)
    rates, costs = (
        [[getattr(one, figure) for one in samples[what]] for what in ("password", "none")]
        for figure in ("per_second", "cpu_microseconds")
    )
    what = f"{name} client: signed in ÷ without a credential"
    return [
        compare("client", what, *rates, unit="calls/s", higher=True),
        compare("client", f"{what}, CPU per call", *costs, unit="µs CPU", higher=False),
    ]


def _round_of(child: Child, seconds: float) -> Callable[[], Sample]:
    def measure() -> Sample:
        before = cpu_seconds(child.pid)
        child.tell({"seconds": seconds})
        said = child.hear()
        cpu, calls = cpu_seconds(child.pid) - before, int(str(said["calls"]))
        return Sample(calls / float(str(said["seconds"])), cpu / calls * 1e6)

    return measure


def _refreshing(run: Run, authority: Authority, *, aio: bool) -> list[Row]:
    """Calls in waves: all at once, again and again, over the end of several tokens' lives.

    The auth service is stopped for as long as a wave takes. A call that waited for a refresh would be answered after
    that, and not only some milliseconds later than the others, which nobody could tell from the machine's own noise.
    """
    size, waves, kind = run.scale.concurrent, run.scale.waves, "aio" if aio else "sync"
    tick = run.begin(f"{size:,} calls at once across refreshes, {kind} client", 2 * waves)
    with ExitStack() as stack:
        variants: dict[str, Callable[[], _Wave]] = {}
        for what, prefix in (("password", PREFIX), ("token", None)):
            server = stack.enter_context(Server(ServerKind(aio=True, guard="credmesh"), run.world, prefix=prefix))
            settings = {
                "aio": aio,
                "credentials": what,
                "token": run.world.tokens.make(),
                "auth": authority.target,
                "target": f"127.0.0.1:{server.port}",
            }
            child = Child("bench.workers.client", settings, cores=LOAD_CORES, log_file=run.world.folder / "clients.log")
            stack.callback(child.stop)
            variants[what] = _wave_of(child, size, authority if what == "password" else None)
        outcomes = interleave(variants, waves, tick=tick)
    return _wave_rows(kind, size, outcomes["password"], outcomes["token"])


def _wave_rows(kind: str, size: int, ours: Sequence[_Wave], peer: Sequence[_Wave]) -> list[Row]:
    both = [(one, other) for one, other in zip(ours, peer, strict=True) if one.refreshed]
    name = f"{kind} client, {size:,} calls at once, the last one answered: during a refresh ÷ with a fixed token"
    note = f"{len(both)} of {len(ours)} waves met a refresh, which the auth service did not answer meanwhile"
    slowest, fixed = [one.milliseconds for one, _ in both], [other.milliseconds for _, other in both]
    failed = sum(one.failed for one in ours)
    return [
        compare("client", name, slowest, fixed, unit="ms", higher=False, target=_STALL_TARGET, note=note)
        if both
        else absent(
            "client",
            name,
            [one.milliseconds for one in ours],
            unit="ms",
            higher=False,
            target=_STALL_TARGET,
            note="no wave met a refresh",
        ),
        total("client", f"{kind} client, of those calls, failed", failed, unit="calls", higher=False, target=0.0),
    ]


def _wave_of(child: Child, size: int, authority: Authority | None) -> Callable[[], _Wave]:
    def measure() -> _Wave:
        with nullcontext() if authority is None else authority.stopped(_STOPPED_AT_MOST):
            child.tell({"wave": size})
            said = child.hear()
        if authority is None:
            return _Wave(float(str(said["slowest"])) * 1000, int(str(said["failed"])), refreshed=False)
        child.tell({"settle": _SETTLED})
        # What was asked for during the wave has been answered by now.
        obtained = int(str(child.hear()["obtained"])) - int(str(said["obtained"]))
        return _Wave(float(str(said["slowest"])) * 1000, int(str(said["failed"])), refreshed=obtained > 0)

    return measure
