"""How cost grows: with live epochs, with cached tokens, and with idle nodes."""

from __future__ import annotations

import secrets
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final

from bench.load.driver import drive, message
from bench.load.http2 import Answer, CallFailed, Connection
from bench.machine import LOAD_CORES, SERVING_CORES, move
from bench.nodes import running
from bench.results.statistics import FEWEST_TO_DECIDE, Row, alone, compare, interleave
from bench.run import Run
from bench.shop import RULE
from bench.verifying import known_keys, metadata_of, microseconds, verifier_of, verify_new
from bench.world import ISSUER, PREFIX, Child, Tokens, World
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.compat import import_etcdrpc
from interceptors.keyspace import Layout
from interceptors.scopes import session_scope
from interceptors.trust.epochs import Epochs

__all__ = ["growth"]

_etcdrpc: Any = import_etcdrpc()

_TOKENS: Final = 200
_CHECKS: Final = 10_000
_PUTS: Final = 100
_AT_ONCE: Final = 8
_READS_AT_ONCE: Final = 64
_BYTES_TARGET: Final = 120.0
_EPOCHS_OF_TARGET: Final = 1_000_000
_IDLE_NODES: Final = 5
_MANY_NODES: Final = 10_000


def growth(run: Run) -> list[Row]:
    """Rows per number of epochs and of cached tokens, and what idle nodes ask of etcd."""
    # The idle ones first: an etcd that has just taken a million keys is busy with them for a while.
    idle = _idle(run)
    return [*_verifying(run), *_holding_epochs(run), *_holding_tokens(run), *idle]


def _verifying(run: Run) -> list[Row]:
    """A first verification, which looks up the epochs of all its scopes, among few and many."""
    tokens = Tokens()
    tick = run.begin("verification among epochs", len(run.scale.epochs) * run.scale.rounds)

    def among(count: int) -> Callable[[], float]:
        bundle = known_keys(tokens)
        bundle.epochs = Epochs((_new_scope(), 1) for _ in range(count))
        verifier = verifier_of(bundle, cached=2 * _TOKENS)

        def measure() -> float:
            calls = [metadata_of(tokens.make()) for _ in range(_TOKENS)]
            return microseconds(lambda metadata: verify_new(verifier, RULE, metadata), calls)

        return measure

    samples = interleave({str(count): among(count) for count in run.scale.epochs}, run.scale.rounds, tick=tick)
    fewest = str(run.scale.epochs[0])
    return [
        compare(
            "growth",
            f"first verification among {count:,} epochs ÷ among {fewest}",
            samples[str(count)],
            samples[fewest],
            unit="µs",
            higher=False,
        )
        for count in run.scale.epochs[1:]
    ]


def _holding_epochs(run: Run) -> list[Row]:
    """Nodes that start among so many epochs: how long it takes, and what each epoch then takes of memory."""
    rows: list[Row] = []
    least = 0.0
    for count in run.scale.epochs:
        prefix = f"/growth-{count}/"
        _fill(run, Layout(prefix), count)
        settings = {"etcd": run.world.etcd.endpoint, "prefix": prefix, "issuer": ISSUER}
        # So many take long to be read: no more rounds than decide.
        rounds = run.scale.starts if count < _EPOCHS_OF_TARGET else min(run.scale.starts, FEWEST_TO_DECIDE)
        tick = run.begin(f"nodes that hold {count:,} epochs", rounds)
        said = [_held(run.world, settings, tick) for _ in range(rounds)]
        name = f"node start among {count:,} epochs"
        rows.append(alone("growth", name, [float(str(one["seconds"])) for one in said], unit="s", higher=False))
        grown = sorted(float(str(one["bytes"])) for one in said)
        least = least or grown[len(grown) // 2]
        if count > run.scale.epochs[0]:
            each = [(size - least) / count for size in grown]
            target = _BYTES_TARGET if count == _EPOCHS_OF_TARGET else None
            name = f"memory of each of {count:,} live epochs on a node"
            rows.append(alone("growth", name, each, unit="bytes", higher=False, target=target))
    return rows


def _holding_tokens(run: Run) -> list[Row]:
    """What each of so many cached tokens takes of memory, and how long a check then takes, with all of them in turn."""
    rows: list[Row] = []
    counts = run.scale.cached
    with ExitStack() as stack:
        variants: dict[str, Callable[[], float]] = {}
        tick = run.begin("verifying tokens to be cached", len(counts))
        for count in counts:
            child = Child(
                "bench.workers.memory",
                {"cached": count},
                cores=SERVING_CORES,
                log_file=run.world.folder / "holding.log",
            )
            stack.callback(child.stop)
            tick()
            variants[str(count)] = _check_of(child)
            if count > counts[0]:
                each = float(str(child.said["bytes"])) / count
                name = f"memory of each of {count:,} cached tokens"
                rows.append(alone("growth", name, [each], unit="bytes", higher=False))
        tick = run.begin("checking cached tokens", len(counts) * run.scale.rounds)
        samples = interleave(variants, run.scale.rounds, tick=tick)
    fewest = str(counts[0])
    return rows + [
        compare(
            "growth",
            f"a token verified before, of {count:,} in turn ÷ the same of {fewest}",
            samples[str(count)],
            samples[fewest],
            unit="µs",
            higher=False,
        )
        for count in counts[1:]
    ]


def _check_of(child: Child) -> Callable[[], float]:
    def measure() -> float:
        child.tell({"checks": _CHECKS})
        return float(str(child.hear()["microseconds"]))

    return measure


def _held(world: World, settings: Mapping[str, object], tick: Callable[[], None]) -> dict[str, object]:
    child = Child("bench.workers.memory", settings, cores=SERVING_CORES, log_file=world.folder / "holding.log")
    child.stop()
    tick()
    return child.said


def _fill(run: Run, layout: Layout, count: int) -> None:
    """Puts epochs into etcd, many to a transaction, by the load generator."""
    transactions = -(-count // _PUTS)
    tick = run.begin(f"putting {count:,} epochs into etcd", transactions)
    value = mesh_pb2.Epoch(format=1).SerializeToString()

    def keys(number: int) -> Iterator[bytes]:
        for _ in range(min(_PUTS, count - number * _PUTS)):
            yield layout.epoch(_new_scope()).encode()

    def requests() -> Iterator[Any]:
        for number in range(transactions):
            puts = [_etcdrpc.RequestOp(request_put=_etcdrpc.PutRequest(key=key, value=value)) for key in keys(number)]
            yield etcd.request(
                "/etcdserverpb.KV/Txn", _etcdrpc.TxnRequest(success=puts).SerializeToString(), token=None
            )

    def check(answer: Answer) -> None:
        if not message(answer, _etcdrpc.TxnResponse).succeeded:
            raise CallFailed("etcd did not take the epochs")
        tick()

    with Connection(_port(run.world)) as etcd:
        drive([etcd], requests().__next__, check, calls=transactions, in_flight=_AT_ONCE)


def _idle(run: Run) -> list[Row]:
    """What nodes ask of etcd when nothing happens, by etcd's own count; and what very many would."""
    world = run.world
    with running(run, _IDLE_NODES, cores=LOAD_CORES):
        tick = run.begin("idle nodes", 2)
        before, begun = _requests(world), time.monotonic()
        # There is nothing to wait for but time itself: idleness is what is measured.
        time.sleep(run.scale.idle_seconds)
        asked, minutes = _requests(world) - before, (time.monotonic() - begun) / 60
        tick()
    per_node = asked / _IDLE_NODES / minutes
    assert world.etcd.pid is not None
    move(world.etcd.pid, SERVING_CORES)
    answered = [_reads_per_second(run) for _ in range(min(run.scale.rounds, 5))]
    move(world.etcd.pid, LOAD_CORES)
    tick()
    many = [per_node * _MANY_NODES / 60] * len(answered)
    return [
        alone("growth", "etcd requests of an idle node", [per_node], unit="1/min", higher=False),
        compare(
            "growth",
            f"requests of {_MANY_NODES:,} idle nodes ÷ what this etcd answers (reckoned)",
            many,
            answered,
            unit="1/s",
            higher=False,
        ),
    ]


def _requests(world: World) -> float:
    """How many requests and streams etcd was asked for since it started."""
    with urllib.request.urlopen(f"http://{world.etcd.endpoint}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("grpc_server_started_total{"))


def _reads_per_second(run: Run) -> float:
    """Linearizable reads of one key, as a node's proof of freshness is."""
    read = _etcdrpc.RangeRequest(key=Layout(PREFIX).beacon.encode())

    def check(answer: Answer) -> None:
        if not message(answer, _etcdrpc.RangeResponse).header.revision:
            raise CallFailed("a read was not answered")

    with Connection(_port(run.world)) as etcd:
        request = etcd.request("/etcdserverpb.KV/Range", read.SerializeToString(), token=None)
        return drive([etcd], lambda: request, check, seconds=run.scale.seconds, in_flight=_READS_AT_ONCE).per_second


def _port(world: World) -> int:
    return int(world.etcd.endpoint.rpartition(":")[2])


def _new_scope() -> str:
    return session_scope(secrets.token_urlsafe(16))
