"""Revocation: how long after the commit a credential is refused on every node, against a bare etcd watch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.load.http2 import Answer, CallFailed, Connection
from bench.nodes import BARE, running
from bench.results.statistics import Row, alone, by_block, compare, interleave
from bench.run import Run
from bench.shop import WATCH_STOCK, framed, watched
from bench.world import BenchFailed, Child, Server, ServerKind
from credmesh.samples.inventory.v1 import inventory_pb2
from interceptors.etcd.client import Put
from interceptors.scopes import subject_scope

__all__ = ["revocation"]

_TARGET: Final = 3.0
_NODES_OF_TARGET: Final = 50
_UNAUTHENTICATED: Final = 16
_BYSTANDERS: Final = 10


@dataclass(frozen=True, slots=True)
class _Delay:
    """Milliseconds until the last node knew: since the transaction was sent, and since etcd had answered it."""

    since_sent: float
    since_answered: float


def revocation(run: Run) -> list[Row]:
    """Rows for each number of nodes, and for the streams that end with one revocation."""
    rows = [row for nodes in run.scale.nodes for row in _delays(run, nodes)]
    return rows + [_streams(run, aio=aio) for aio in run.scale.servers]


def _delays(run: Run, count: int) -> list[Row]:
    """Revocations and bare puts in turn, in the same processes: the last node's moment counts."""
    revocations = run.scale.revocations
    with running(run, count) as nodes:
        tick = run.begin(f"revocations on {count} nodes", 2 * revocations)
        variants = {"ours": lambda: _revoked(run, nodes), "bare": lambda: _put(run, nodes)}
        samples = interleave(variants, revocations, tick=tick)
    return [
        _row(count, samples, 50, since_sent=True),
        _row(count, samples, 99, since_sent=True),
        _row(count, samples, 99, since_sent=False),
    ]


def _row(count: int, samples: Mapping[str, Sequence[_Delay]], percent: float, *, since_sent: bool) -> Row:
    ours, bare = (
        by_block([one.since_sent if since_sent else one.since_answered for one in samples[what]], percent)
        for what in ("ours", "bare")
    )
    since = "it was sent" if since_sent else "the commit was answered"
    name = f"refused on all of {count} nodes since {since}, p{percent:g} ÷ a bare etcd watch on as many"
    target = None if since_sent or count != _NODES_OF_TARGET else _TARGET
    return compare("revocation", name, ours, bare, unit="ms", higher=False, target=target)


def _revoked(run: Run, nodes: Sequence[Child]) -> _Delay:
    """A revocation: until the last node refuses a credential that it had accepted."""
    subject = f"user-{time.monotonic_ns()}"
    token = run.world.tokens.make(subject)
    for node in nodes:
        node.tell({"token": token})
    for node in nodes:
        node.hear()
    sent = time.monotonic_ns()
    run.world.revoke([subject_scope(subject)])
    answered = time.monotonic_ns()
    said = [node.hear() for node in nodes]
    if not all(one["refused"] for one in said):
        raise BenchFailed("a node accepted a revoked credential")
    return _delay(said, sent, answered)


def _put(run: Run, nodes: Sequence[Child]) -> _Delay:
    """A put: until the last bare watch has brought it."""
    sent = time.monotonic_ns()
    run.world.client.commit([], [Put(BARE, b"")])
    answered = time.monotonic_ns()
    return _delay([node.hear() for node in nodes], sent, answered)


def _delay(said: Sequence[dict[str, object]], sent: int, answered: int) -> _Delay:
    last = max(int(str(one["at"])) for one in said)
    # An event may overtake the commit's own answer: then it took no time that whoever revoked could have noticed.
    return _Delay((last - sent) / 1e6, max(0.001, (last - answered) / 1e6))


def _streams(run: Run, *, aio: bool) -> Row:
    """Streams that one revocation ends, all of one subject, while others' go on."""
    count, world = run.scale.streams, run.world
    rounds = min(run.scale.rounds, 5)
    kind = "aio" if aio else "sync"
    tick = run.begin(f"ending {count:,} streams, {kind} server", rounds)
    rates: list[float] = []
    with Server(ServerKind(aio=aio, guard="credmesh", threads=count + 2 * _BYSTANDERS), world) as server:
        for _ in range(rounds):
            with Connection(server.port) as hers, Connection(server.port) as others:
                subject = f"user-{time.monotonic_ns()}"
                _open(hers, world.tokens.make(subject), count)
                _open(others, world.tokens.make("bystander"), _BYSTANDERS)
                world.revoke([subject_scope(subject)])
                begun = time.perf_counter()
                while hers.open:
                    hers.pump(_ended_by_revocation)
                    hers.flush()
                rates.append(count / (time.perf_counter() - begun))
                if len(others.open) != _BYSTANDERS:
                    raise BenchFailed("somebody else's stream ended too")
            tick()
    name = f"streams ended by one revocation of {count:,}, {kind} server"
    return alone("revocation", name, rates, unit="streams/s", higher=True)


def _open(connection: Connection, token: str, count: int) -> None:
    """Opens streams and waits until each has brought its first message."""
    message = inventory_pb2.WatchStockRequest(sku="hold").SerializeToString()
    request = connection.request(WATCH_STOCK, message, token=token)
    for _ in range(count):
        connection.start(request)
    connection.flush()
    first = framed(watched(1))
    while any(answer.data != first for answer in connection.open.values()):
        connection.pump(_ended_early)
        connection.flush()


def _ended_early(_: Connection, stream: int, answer: Answer) -> None:
    raise CallFailed(f"stream {stream} ended at once: status {answer.status} ({answer.details})")


def _ended_by_revocation(_: Connection, stream: int, answer: Answer) -> None:
    if answer.status != _UNAUTHENTICATED:
        raise CallFailed(f"stream {stream} ended with status {answer.status} ({answer.details})")
