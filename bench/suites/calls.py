"""The cost of verification for a call: against no interceptor, and against what users would take instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from bench.auth_replica import PREFIX, AuthReplica
from bench.load.rounds import LONG_STREAM, SHORT_STREAM, UNARY, CallKind, RoundRunner, Sample, Target
from bench.machine import SERVING_CORES
from bench.peers.envoy import HOW_TO_GET_ENVOY, Envoy, find_envoy
from bench.processes import ServerKind, ServerUnderTest
from bench.results.statistics import (
    Row,
    common_rounds,
    comparison_row,
    interleave,
    interleave_targeted,
    missing_peer_row,
)
from bench.suite import SuiteContext

__all__ = ["streaming", "unary"]

_NO_INTERCEPTOR, _ONE_TOKEN, _NEW_TOKENS = "no interceptor", "one warm token", "every token new"
_PYJWT, _INTROSPECTION = "PyJWT by hand", "introspection per call"
_ENVOY, _ENVOY_CACHED = "Envoy jwt_authn", "Envoy jwt_authn with its cache"

_TARGETED: Final = (_NO_INTERCEPTOR, _ONE_TOKEN, _ENVOY)

_RATE_TARGET: Final = 0.95
_CPU_TARGET: Final = 0.55

Measure = Callable[[], Sample]


def unary(context: SuiteContext) -> list[Row]:
    """Unary calls: in plaintext against every peer, and over TLS against no interceptor."""
    rows: list[Row] = []
    for aio in context.scale.servers:
        kind = _kind_name(aio)
        with _variants(context, aio=aio) as variants:
            rows += _unary_rows(kind, context.scale.tokens, _measured(context, kind, variants))
    for aio in context.scale.servers:
        rows += _against_no_interceptor(context, aio=aio, tls=True, what="unary over TLS", call_kind=UNARY)
    return rows


def streaming(context: SuiteContext) -> list[Row]:
    """Streams: the messages of long streams, and the start and end of short streams."""
    return [
        row
        for what, call_kind in (("messages of long streams", LONG_STREAM), ("streams of one message", SHORT_STREAM))
        for aio in context.scale.servers
        for row in _against_no_interceptor(context, aio=aio, tls=False, what=what, call_kind=call_kind)
    ]


def _measured(context: SuiteContext, kind: str, variants: Mapping[str, Measure]) -> dict[str, list[Sample]]:
    targeted = [name for name in _TARGETED if name in variants]
    rounds, targeted_rounds = context.scale.rounds, context.scale.targeted
    steps = len(variants) * rounds + len(targeted) * (targeted_rounds - rounds)
    tick = context.begin_progress(f"unary calls, {kind} server", steps)
    return interleave_targeted(variants, targeted, rounds, targeted_rounds, tick=tick)


def _unary_rows(kind: str, tokens: int, samples: Mapping[str, Sequence[Sample]]) -> list[Row]:
    def rate(ours: str, peer: str, target: float | None = None) -> Row:
        return _row(f"{kind} unary", ours, peer, samples, cpu=False, target=target)

    def cost(ours: str, peer: str, target: float | None = None) -> Row:
        return _row(f"{kind} unary", ours, peer, samples, cpu=True, target=target)

    return [
        rate(_ONE_TOKEN, _NO_INTERCEPTOR, _RATE_TARGET),
        cost(_ONE_TOKEN, _NO_INTERCEPTOR),
        rate(_many_tokens(tokens), _NO_INTERCEPTOR),
        cost(_many_tokens(tokens), _NO_INTERCEPTOR),
        rate(_NEW_TOKENS, _NO_INTERCEPTOR),
        cost(_NEW_TOKENS, _NO_INTERCEPTOR),
        rate(_PYJWT, _NO_INTERCEPTOR),
        cost(_PYJWT, _NO_INTERCEPTOR),
        rate(_ONE_TOKEN, _PYJWT),
        rate(_NEW_TOKENS, _PYJWT),
        rate(_ONE_TOKEN, _INTROSPECTION),
        cost(_ONE_TOKEN, _INTROSPECTION),
        rate(_ONE_TOKEN, _ENVOY),
        rate(_ONE_TOKEN, _ENVOY_CACHED),
        cost(_ONE_TOKEN, _ENVOY, _CPU_TARGET),
        cost(_ONE_TOKEN, _ENVOY_CACHED),
        cost(_NEW_TOKENS, _ENVOY),
    ]


def _row(
    what: str, ours: str, peer: str, samples: Mapping[str, Sequence[Sample]], *, cpu: bool, target: float | None
) -> Row:
    def figures(measured: Sequence[Sample]) -> list[float]:
        return [one.cpu_microseconds if cpu else one.per_second for one in measured]

    name = f"{what}{', CPU per call' if cpu else ''}: {ours} ÷ {peer}"
    unit = "µs CPU" if cpu else "calls/s"
    if peer not in samples:
        note = HOW_TO_GET_ENVOY
        return missing_peer_row(
            "calls", name, figures(samples[ours]), unit=unit, higher=not cpu, target=target, note=note
        )
    both = map(figures, common_rounds(samples[ours], samples[peer]))
    return comparison_row("calls", name, *both, unit=unit, higher=not cpu, target=target)


@contextmanager
def _variants(context: SuiteContext, *, aio: bool) -> Iterator[dict[str, Measure]]:
    """Every variant of a unary call, with its server warmed up."""
    environment, scale = context.environment, context.scale
    tick = context.begin_progress(f"starting {_kind_name(aio)} servers", 8)
    variants: dict[str, Measure] = {}
    with ExitStack() as stack:

        def serve(interceptor: str) -> ServerUnderTest:
            return stack.enter_context(ServerUnderTest(ServerKind(aio=aio, interceptor=interceptor), environment))

        def add(name: str, target: Target, tokens: Sequence[str] | Callable[[], str]) -> None:
            variants[name] = RoundRunner(target, tokens, seconds=scale.seconds).measure
            tick()

        one = [environment.tokens.make()]
        many = [environment.tokens.make() for _ in range(scale.tokens)]
        bare = serve("none")
        add(_NO_INTERCEPTOR, bare, one)
        add(_ONE_TOKEN, serve("credmesh"), one)
        add(_many_tokens(scale.tokens), serve("credmesh"), many)
        add(_NEW_TOKENS, serve("credmesh"), environment.tokens.make)
        add(_PYJWT, serve("handwritten"), one)
        replica = stack.enter_context(AuthReplica(environment, cores=SERVING_CORES))
        introspecting = stack.enter_context(
            ServerUnderTest(
                ServerKind(aio=aio, interceptor="introspection"),
                environment,
                prefix=PREFIX,
                auth=replica.target,
                client_secret=replica.secrets["services"],
            )
        )
        introspecting.pids.append(replica.pid)
        add(_INTROSPECTION, introspecting, [replica.login().access_token])
        binary = find_envoy()
        if binary is not None:
            log_file = environment.log_file("envoy")
            for name, cached in ((_ENVOY, False), (_ENVOY_CACHED, True)):
                proxy = stack.enter_context(Envoy(binary, bare, environment.tokens, cached=cached, log_file=log_file))
                add(name, proxy, one)
        yield variants


def _against_no_interceptor(
    context: SuiteContext, *, aio: bool, tls: bool, what: str, call_kind: CallKind
) -> list[Row]:
    """One kind of call with a warm token, against the same calls without an interceptor."""
    interceptors = ("credmesh", "none")
    with ExitStack() as stack:
        variants: dict[str, Measure] = {}
        for interceptor in interceptors:
            kind = ServerKind(aio=aio, interceptor=interceptor, tls=tls)
            server = stack.enter_context(ServerUnderTest(kind, context.environment))
            tokens = [context.environment.tokens.make()]
            variants[interceptor] = RoundRunner(server, tokens, kind=call_kind, seconds=context.scale.seconds).measure
        tick = context.begin_progress(f"{what}, {_kind_name(aio)} server", 2 * context.scale.rounds)
        samples = interleave(variants, context.scale.rounds, tick=tick)
    rates = ([one.per_second for one in samples[interceptor]] for interceptor in interceptors)
    costs = ([one.cpu_microseconds for one in samples[interceptor]] for interceptor in interceptors)
    counted = "message" if call_kind is LONG_STREAM else "stream" if call_kind is SHORT_STREAM else "call"
    group = "calls" if call_kind is UNARY else "streams"
    name, variant = f"{_kind_name(aio)} {what}", f"{_ONE_TOKEN} ÷ {_NO_INTERCEPTOR}"
    return [
        comparison_row(group, f"{name}: {variant}", *rates, unit=f"{counted}s/s", higher=True),
        comparison_row(group, f"{name}, CPU per {counted}: {variant}", *costs, unit="µs CPU", higher=False),
    ]


def _many_tokens(tokens: int) -> str:
    return f"{tokens:,} warm tokens in turn"


def _kind_name(aio: bool) -> str:
    return "aio" if aio else "sync"
