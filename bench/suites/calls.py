"""What verification costs a call: against no interceptor at all, and against what people use today."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from bench.authority import PREFIX, Authority
from bench.load.rounds import LONG_STREAM, SHORT_STREAM, UNARY, Caller, Sample, Served, Work
from bench.machine import SERVING_CORES
from bench.peers.envoy import HOW_TO_GET_ENVOY, Envoy, find_envoy
from bench.results.statistics import Row, absent, compare, interleave
from bench.run import Run
from bench.world import Server, ServerKind

__all__ = ["streaming", "unary"]

_LIMIT, _WARM, _COLD = "no interceptor", "one warm token", "every token new"
_BY_HAND, _ASKING = "PyJWT by hand", "introspection per call"
_ENVOY, _ENVOY_CACHED = "Envoy jwt_authn", "Envoy jwt_authn with its cache"

_TARGETED: Final = (_LIMIT, _WARM, _ENVOY)

_RATE_TARGET: Final = 0.95
_CPU_TARGET: Final = 0.55

Measure = Callable[[], Sample]


def unary(run: Run) -> list[Row]:
    """Unary calls: in plaintext against every peer, and over TLS against the limit."""
    rows: list[Row] = []
    for aio in run.scale.servers:
        kind = _name(aio)
        with _variants(run, aio=aio) as variants:
            rows += _unary_rows(kind, run.scale.tokens, _measured(run, kind, variants))
    for aio in run.scale.servers:
        rows += _against_the_limit(run, aio=aio, tls=True, what="unary over TLS", work=UNARY)
    return rows


def streaming(run: Run) -> list[Row]:
    """Streams: the messages of long ones, and what it costs to begin and end short ones."""
    return [
        row
        for what, work in (("messages of long streams", LONG_STREAM), ("streams of one message", SHORT_STREAM))
        for aio in run.scale.servers
        for row in _against_the_limit(run, aio=aio, tls=False, what=what, work=work)
    ]


def _measured(run: Run, kind: str, variants: Mapping[str, Measure]) -> dict[str, list[Sample]]:
    """Rounds of all variants, and then more of those whose ratios are held against targets."""
    targeted = {name: variants[name] for name in _TARGETED if name in variants}
    rounds, more = run.scale.rounds, run.scale.targeted - run.scale.rounds
    tick = run.begin(f"unary calls, {kind} server", len(variants) * rounds + len(targeted) * more)
    samples = interleave(variants, rounds, tick=tick)
    for name, further in interleave(targeted, more, tick=tick).items():
        samples[name] += further
    return samples


def _unary_rows(kind: str, tokens: int, samples: Mapping[str, Sequence[Sample]]) -> list[Row]:
    def rate(ours: str, peer: str, target: float | None = None) -> Row:
        return _row(f"{kind} unary", ours, peer, samples, cpu=False, target=target)

    def cost(ours: str, peer: str, target: float | None = None) -> Row:
        return _row(f"{kind} unary", ours, peer, samples, cpu=True, target=target)

    return [
        rate(_WARM, _LIMIT, _RATE_TARGET),
        cost(_WARM, _LIMIT),
        rate(_many(tokens), _LIMIT),
        cost(_many(tokens), _LIMIT),
        rate(_COLD, _LIMIT),
        cost(_COLD, _LIMIT),
        rate(_BY_HAND, _LIMIT),
        cost(_BY_HAND, _LIMIT),
        rate(_WARM, _BY_HAND),
        rate(_COLD, _BY_HAND),
        rate(_WARM, _ASKING),
        cost(_WARM, _ASKING),
        rate(_WARM, _ENVOY),
        rate(_WARM, _ENVOY_CACHED),
        cost(_WARM, _ENVOY, _CPU_TARGET),
        cost(_WARM, _ENVOY_CACHED),
        cost(_COLD, _ENVOY),
    ]


def _row(
    what: str, ours: str, peer: str, samples: Mapping[str, Sequence[Sample]], *, cpu: bool, target: float | None
) -> Row:
    # Where one of the two has had more rounds than the other, its last ones have no neighbours.
    rounds = min(len(samples[variant]) for variant in (ours, peer) if variant in samples)

    def figures(variant: str) -> list[float]:
        return [one.cpu_microseconds if cpu else one.per_second for one in samples[variant][:rounds]]

    name = f"{what}{', CPU per call' if cpu else ''}: {ours} ÷ {peer}"
    unit = "µs CPU" if cpu else "calls/s"
    if peer not in samples:
        note = HOW_TO_GET_ENVOY
        return absent("calls", name, figures(ours), unit=unit, higher=not cpu, target=target, note=note)
    return compare("calls", name, figures(ours), figures(peer), unit=unit, higher=not cpu, target=target)


@contextmanager
def _variants(run: Run, *, aio: bool) -> Iterator[dict[str, Measure]]:
    """Every variant of a unary call, warm and ready to be measured."""
    world, scale = run.world, run.scale
    tick = run.begin(f"starting {_name(aio)} servers", 8)
    variants: dict[str, Measure] = {}
    with ExitStack() as stack:

        def serve(guard: str) -> Server:
            return stack.enter_context(Server(ServerKind(aio=aio, guard=guard), world))

        def add(name: str, served: Served, tokens: Sequence[str] | Callable[[], str]) -> None:
            caller = Caller(served, tokens, seconds=scale.seconds)
            variants[name] = caller.measure
            tick()

        one = [world.tokens.make()]
        limit = serve("none")
        add(_LIMIT, limit, one)
        add(_WARM, serve("credmesh"), one)
        add(
            _many(scale.tokens),
            serve("credmesh"),
            [world.tokens.make() for _ in range(scale.tokens)],
        )
        add(_COLD, serve("credmesh"), world.tokens.make)
        add(_BY_HAND, serve("handwritten"), one)
        authority = stack.enter_context(Authority(world, cores=SERVING_CORES))
        secret = authority.secrets["services"]
        kind = ServerKind(aio=aio, guard="introspection")
        asking = stack.enter_context(Server(kind, world, prefix=PREFIX, auth=authority.target, client_secret=secret))
        asking.pids.append(authority.pid)
        add(_ASKING, asking, [authority.login().access_token])
        binary = find_envoy()
        if binary is not None:
            log_file = world.folder / "envoy.log"
            for name, cached in ((_ENVOY, False), (_ENVOY_CACHED, True)):
                proxy = stack.enter_context(Envoy(binary, limit, world.tokens, cached=cached, log_file=log_file))
                add(name, proxy, one)
        yield variants


def _against_the_limit(run: Run, *, aio: bool, tls: bool, what: str, work: Work) -> list[Row]:
    """One kind of call with a warm token, against the same without any interceptor."""
    with ExitStack() as stack:
        variants: dict[str, Measure] = {}
        for guard in ("credmesh", "none"):
            server = stack.enter_context(Server(ServerKind(aio=aio, guard=guard, tls=tls), run.world))
            caller = Caller(server, [run.world.tokens.make()], work=work, seconds=run.scale.seconds)
            variants[guard] = caller.measure
        tick = run.begin(f"{what}, {_name(aio)} server", 2 * run.scale.rounds)
        samples = interleave(variants, run.scale.rounds, tick=tick)
    rates = ([one.per_second for one in samples[guard]] for guard in ("credmesh", "none"))
    costs = ([one.cpu_microseconds for one in samples[guard]] for guard in ("credmesh", "none"))
    counted = "message" if work is LONG_STREAM else "stream" if work is SHORT_STREAM else "call"
    group, kind = "calls" if work is UNARY else "streams", _name(aio)
    name = f"{_WARM} ÷ {_LIMIT}"
    return [
        compare(group, f"{kind} {what}: {name}", *rates, unit=f"{counted}s/s", higher=True),
        compare(group, f"{kind} {what}, CPU per {counted}: {name}", *costs, unit="µs CPU", higher=False),
    ]


def _many(tokens: int) -> str:
    return f"{tokens:,} warm tokens in turn"


def _name(aio: bool) -> str:
    return "aio" if aio else "sync"
