"""Revocation: how long until every node refuses a revoked credential, compared with a bare etcd watch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.environment import BenchFailed
from bench.load.http2 import CallFailed, Connection, Response
from bench.nodes import BARE_WATCH_KEY, run_nodes
from bench.processes import ServerKind, ServerUnderTest, WorkerProcess
from bench.results.statistics import Row, comparison_row, interleave, percentiles_by_block, single_row
from bench.shop import WATCH_STOCK, grpc_framed, watch_responses
from bench.suite import SuiteContext
from credmesh.samples.inventory.v1 import inventory_pb2
from interceptors.etcd.client import Put
from interceptors.scopes import subject_scope

__all__ = ["revocation"]

_TARGET: Final = 3.0
_NODES_OF_TARGET: Final = 50
_UNAUTHENTICATED: Final = 16
_BYSTANDER_STREAMS: Final = 10
_MAX_STREAM_ROUNDS: Final = 5
_MIN_DELAY_MS: Final = 0.001


@dataclass(frozen=True, slots=True)
class _Delay:
    """Milliseconds until the last node had the event: since the transaction was sent, and since etcd answered it."""

    since_sent: float
    since_answered: float


def revocation(context: SuiteContext) -> list[Row]:
    """Rows for each number of nodes, and rows of the streams that one revocation ends."""
    rows = [row for nodes in context.scale.nodes for row in _delays(context, nodes)]
    return rows + [_streams(context, aio=aio) for aio in context.scale.servers]


def _delays(context: SuiteContext, count: int) -> list[Row]:
    """Revocations and bare puts take turns in the same processes. The last node decides each figure."""
    revocations = context.scale.revocations
    with run_nodes(context, count) as nodes:
        tick = context.begin_progress(f"revocations on {count} nodes", 2 * revocations)
        variants = {"ours": lambda: _revoke(context, nodes), "bare": lambda: _put(context, nodes)}
        samples = interleave(variants, revocations, tick=tick)
    return [
        _row(count, samples, 50, since_sent=True),
        _row(count, samples, 99, since_sent=True),
        _row(count, samples, 99, since_sent=False),
    ]


def _row(count: int, samples: Mapping[str, Sequence[_Delay]], percent: float, *, since_sent: bool) -> Row:
    ours, bare = (
        percentiles_by_block(
            [one.since_sent if since_sent else one.since_answered for one in samples[variant]], percent
        )
        for variant in ("ours", "bare")
    )
    nodes = "1 node" if count == 1 else f"all of {count} nodes"
    since = "the request was sent" if since_sent else "the commit was answered"
    name = f"refused by {nodes} since {since}, p{percent:g} ÷ an event of a bare etcd watch"
    target = None if since_sent or count != _NODES_OF_TARGET else _TARGET
    return comparison_row("revocation", name, ours, bare, unit="ms", higher=False, target=target)


def _revoke(context: SuiteContext, nodes: Sequence[WorkerProcess]) -> _Delay:
    """Revokes a subject and waits until every node refuses a credential that it had accepted."""
    subject = f"user-{time.monotonic_ns()}"
    token = context.environment.tokens.make(subject)
    for node in nodes:
        node.send({"token": token})
    for node in nodes:
        node.receive()
    sent_at = time.monotonic_ns()
    context.environment.revoke([subject_scope(subject)])
    answered_at = time.monotonic_ns()
    outcomes = [node.receive() for node in nodes]
    if not all(outcome["refused"] for outcome in outcomes):
        raise BenchFailed("a node accepted a revoked credential")
    return _delay(outcomes, sent_at, answered_at)


def _put(context: SuiteContext, nodes: Sequence[WorkerProcess]) -> _Delay:
    """Puts a key and waits until every bare watch has its event."""
    sent_at = time.monotonic_ns()
    context.environment.client.commit([], [Put(BARE_WATCH_KEY, b"")])
    answered_at = time.monotonic_ns()
    return _delay([node.receive() for node in nodes], sent_at, answered_at)


def _delay(outcomes: Sequence[dict[str, object]], sent_at: int, answered_at: int) -> _Delay:
    last = max(int(str(outcome["at"])) for outcome in outcomes)
    # An event may arrive before the answer to its commit. Then the delay since the answer counts as zero; the minimum
    # avoids a division by zero in the ratio.
    return _Delay((last - sent_at) / 1e6, max(_MIN_DELAY_MS, (last - answered_at) / 1e6))


def _streams(context: SuiteContext, *, aio: bool) -> Row:
    """One revocation ends all streams of one subject. The streams of another subject must stay open."""
    count, environment = context.scale.streams, context.environment
    rounds = min(context.scale.rounds, _MAX_STREAM_ROUNDS)
    kind = "aio" if aio else "sync"
    tick = context.begin_progress(f"ending {count:,} streams, {kind} server", rounds)
    rates: list[float] = []
    server_kind = ServerKind(aio=aio, interceptor="credmesh", threads=count + 2 * _BYSTANDER_STREAMS)
    with ServerUnderTest(server_kind, environment) as server:
        for _ in range(rounds):
            with Connection(server.port) as revoked, Connection(server.port) as bystanders:
                subject = f"user-{time.monotonic_ns()}"
                _open_streams(revoked, environment.tokens.make(subject), count)
                _open_streams(bystanders, environment.tokens.make("bystander"), _BYSTANDER_STREAMS)
                environment.revoke([subject_scope(subject)])
                started_at = time.perf_counter()
                while revoked.open:
                    revoked.pump(_expect_revoked)
                    revoked.flush()
                rates.append(count / (time.perf_counter() - started_at))
                if len(bystanders.open) != _BYSTANDER_STREAMS:
                    raise BenchFailed("a stream of another subject ended too")
            tick()
    name = f"streams ended by one revocation, {count:,} streams, {kind} server"
    return single_row("revocation", name, rates, unit="streams/s", higher=True)


def _open_streams(connection: Connection, token: str, count: int) -> None:
    """Opens streams and waits for the first message of each."""
    message = inventory_pb2.WatchStockRequest(sku="hold").SerializeToString()
    request = connection.request(WATCH_STOCK, message, token=token)
    for _ in range(count):
        connection.start(request)
    connection.flush()
    first = grpc_framed(watch_responses(1))
    while any(response.data != first for response in connection.open.values()):
        connection.pump(_expect_open)
        connection.flush()


def _expect_open(_: Connection, stream: int, response: Response) -> None:
    raise CallFailed(f"stream {stream} ended early: status {response.status} ({response.details})")


def _expect_revoked(_: Connection, stream: int, response: Response) -> None:
    if response.status != _UNAUTHENTICATED:
        raise CallFailed(f"stream {stream} ended with status {response.status} ({response.details})")
