"""The client's side: what attaching a credential costs a call, and whether anybody notices a refresh."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from bench.authority import PREFIX, Authority
from bench.calling import Sample
from bench.machine import LOAD_CORES, SERVING_CORES, cpu_seconds
from bench.method import Row, compare, interleave, total
from bench.run import Run
from bench.world import Child, Server, ServerKind

__all__ = ["client"]

_TOKEN_LIFETIME: Final = 2


def client(run: Run) -> list[Row]:
    """Rows of clients that sign in, against clients without a credential, and with one that never changes."""
    with Authority(run.world, cores=LOAD_CORES) as authority:
        rows = [row for aio in run.scale.servers for row in _attaching(run, authority, aio=aio)]
    short = {"CREDMESH_TOKEN_LIFETIME": str(_TOKEN_LIFETIME)}
    with Authority(run.world, cores=LOAD_CORES, environ=short) as authority:
        return rows + _refreshing(run, authority)


def _attaching(run: Run, authority: Authority, *, aio: bool) -> list[Row]:
    name = "aio" if aio else "sync"
    tick = run.begin(f"{name} client", 2 * run.scale.rounds)
    with ExitStack() as stack:
        # The client is what is measured, so it is the client that has the serving core.
        server = stack.enter_context(Server(ServerKind(aio=False), run.world, cores=LOAD_CORES))
        variants: dict[str, Callable[[], Sample]] = {}
        for what in ("password", "none"):
            settings = {"aio": aio, "credentials": what, "auth": authority.target, "target": f"127.0.0.1:{server.port}"}
            child = Child("bench.attaching", settings, cores=SERVING_CORES, log_file=run.world.folder / "clients.log")
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


def _refreshing(run: Run, authority: Authority) -> list[Row]:
    """Calls in waves: all at once, again and again, over the end of several tokens' lives."""
    size, waves = run.scale.concurrent, run.scale.waves
    tick = run.begin(f"{size:,} calls at once across refreshes", 2 * waves)
    log_file = run.world.folder / "clients.log"
    with ExitStack() as stack:
        kind = ServerKind(aio=True, guard="credmesh")
        variants: dict[str, Callable[[], dict[str, float]]] = {}
        for what, prefix in (("password", PREFIX), ("token", None)):
            server = stack.enter_context(Server(kind, run.world, prefix=prefix))
            settings = {
                "aio": True,
                "credentials": what,
                "token": run.world.tokens.make(),
                "auth": authority.target,
                "target": f"127.0.0.1:{server.port}",
            }
            child = Child("bench.attaching", settings, cores=LOAD_CORES, log_file=log_file)
            stack.callback(child.stop)
            variants[what] = _wave_of(child, size)
        outcomes = interleave(variants, waves, tick=tick)
    ours, peer = ([one["slowest"] * 1000 for one in outcomes[what]] for what in ("password", "token"))
    failed = sum(one["failed"] for one in outcomes["password"])
    renewed = int(outcomes["password"][-1]["renewed"]) - 1
    name = f"{size:,} calls at once, the last to be answered: token refreshed meanwhile ÷ a fixed token"
    return [
        compare("client", name, ours, peer, unit="ms", higher=False, note=f"{renewed} refreshes in {waves} waves"),
        total("client", "of those calls, failed", failed, unit="calls", higher=False, target=0.0),
    ]


def _wave_of(child: Child, size: int) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        child.tell({"wave": size})
        return {name: float(str(figure)) for name, figure in child.hear().items()}

    return measure
