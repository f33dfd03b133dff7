"""Growth: the cost of many live epochs, many cached tokens and many idle nodes."""

from __future__ import annotations

import secrets
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final

from bench.environment import ISSUER, PREFIX, BenchEnvironment, TokenFactory
from bench.load.driver import make_calls, parse_message
from bench.load.http2 import CallFailed, Connection, Response
from bench.machine import LOAD_CORES, SERVING_CORES, move
from bench.nodes import run_nodes
from bench.processes import WorkerProcess
from bench.results.statistics import MIN_ROUNDS_TO_DECIDE, Row, comparison_row, interleave, single_row
from bench.shop import RULE
from bench.suite import SuiteContext
from bench.verifying import bearer_metadata, bundle_with_key, cpu_microseconds_each, make_verifier, verify_new
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.compat import import_etcdrpc
from interceptors.keyspace import Layout
from interceptors.scopes import session_scope
from interceptors.trust.epochs import Epochs

__all__ = ["growth"]

_etcdrpc: Any = import_etcdrpc()

_TOKENS: Final = 200
_VERIFICATIONS: Final = 10_000
_PUTS_PER_TRANSACTION: Final = 100
_TRANSACTIONS_IN_FLIGHT: Final = 8
_READS_IN_FLIGHT: Final = 64
_EPOCH_BYTES_TARGET: Final = 120.0
_EPOCHS_OF_TARGET: Final = 1_000_000
_IDLE_NODES: Final = 5
_MANY_NODES: Final = 10_000


def growth(context: SuiteContext) -> list[Row]:
    """Rows for each number of epochs and of cached tokens, and rows of the etcd requests of idle nodes."""
    # Idle nodes first: an etcd stays busy for a while after a million new keys.
    idle = _idle_nodes(context)
    return [
        *_verification_among_epochs(context),
        *_nodes_with_epochs(context),
        *_nodes_with_cached_tokens(context),
        *idle,
    ]


def _verification_among_epochs(context: SuiteContext) -> list[Row]:
    """A first verification looks up the epochs of all scopes of a token. Compares many epochs with few."""
    tokens = TokenFactory()
    tick = context.begin_progress("verification among epochs", len(context.scale.epochs) * context.scale.rounds)

    def verify_among(count: int) -> Callable[[], float]:
        bundle = bundle_with_key(tokens)
        bundle.epochs = Epochs((_new_scope(), 1) for _ in range(count))
        verifier = make_verifier(bundle, cached=2 * _TOKENS)

        def measure() -> float:
            calls = [bearer_metadata(tokens.make()) for _ in range(_TOKENS)]
            return cpu_microseconds_each(lambda metadata: verify_new(verifier, RULE, metadata), calls)

        return measure

    samples = interleave(
        {str(count): verify_among(count) for count in context.scale.epochs}, context.scale.rounds, tick=tick
    )
    fewest = str(context.scale.epochs[0])
    return [
        comparison_row(
            "growth",
            f"first verification with {count:,} live epochs ÷ with {fewest}",
            samples[str(count)],
            samples[fewest],
            unit="µs",
            higher=False,
        )
        for count in context.scale.epochs[1:]
    ]


def _nodes_with_epochs(context: SuiteContext) -> list[Row]:
    """Nodes that start with many epochs in etcd: the duration of the start, and the memory of each epoch."""
    rows: list[Row] = []
    least = 0.0
    for count in context.scale.epochs:
        prefix = f"/growth-{count}/"
        _fill(context, Layout(prefix), count)
        settings = {"etcd": context.environment.etcd.endpoint, "prefix": prefix, "issuer": ISSUER}
        # A start with a million epochs takes long, so there are only as many rounds as a decision needs.
        rounds = context.scale.starts if count < _EPOCHS_OF_TARGET else min(context.scale.starts, MIN_ROUNDS_TO_DECIDE)
        tick = context.begin_progress(f"nodes with {count:,} epochs", rounds)
        results = [_start_node(context.environment, settings, tick) for _ in range(rounds)]
        name = f"node start with {count:,} live epochs"
        rows.append(single_row("growth", name, [float(str(one["seconds"])) for one in results], unit="s", higher=False))
        grown = sorted(float(str(one["bytes"])) for one in results)
        least = least or grown[len(grown) // 2]
        if count > context.scale.epochs[0]:
            each = [(size - least) / count for size in grown]
            target = _EPOCH_BYTES_TARGET if count == _EPOCHS_OF_TARGET else None
            name = f"memory of a node per epoch, {count:,} live epochs"
            rows.append(single_row("growth", name, each, unit="bytes", higher=False, target=target))
    return rows


def _nodes_with_cached_tokens(context: SuiteContext) -> list[Row]:
    """The memory of each cached token, and the duration of a verification from the cache, with all tokens in turn."""
    rows: list[Row] = []
    counts = context.scale.cached
    log_file = context.environment.log_file("memory")
    with ExitStack() as stack:
        variants: dict[str, Callable[[], float]] = {}
        tick = context.begin_progress("filling caches", len(counts))
        for count in counts:
            worker = WorkerProcess("bench.workers.memory", {"cached": count}, cores=SERVING_CORES, log_file=log_file)
            stack.callback(worker.kill)
            tick()
            variants[str(count)] = _verifications_of(worker)
            if count > counts[0]:
                each = float(str(worker.first_message["bytes"])) / count
                name = f"memory of a node per cached token, {count:,} tokens"
                rows.append(single_row("growth", name, [each], unit="bytes", higher=False))
        tick = context.begin_progress("verifying cached tokens", len(counts) * context.scale.rounds)
        samples = interleave(variants, context.scale.rounds, tick=tick)
    fewest = str(counts[0])
    return rows + [
        comparison_row(
            "growth",
            f"verification from the cache, {count:,} tokens in turn ÷ {fewest} token",
            samples[str(count)],
            samples[fewest],
            unit="µs",
            higher=False,
        )
        for count in counts[1:]
    ]


def _verifications_of(worker: WorkerProcess) -> Callable[[], float]:
    def measure() -> float:
        worker.send({"verifications": _VERIFICATIONS})
        return float(str(worker.receive()["microseconds"]))

    return measure


def _start_node(
    environment: BenchEnvironment, settings: Mapping[str, object], tick: Callable[[], None]
) -> dict[str, object]:
    """Starts a node, and returns how long that took and how many bytes it takes."""
    log_file = environment.log_file("memory")
    worker = WorkerProcess("bench.workers.memory", settings, cores=SERVING_CORES, log_file=log_file)
    worker.kill()
    tick()
    return worker.first_message


def _fill(context: SuiteContext, layout: Layout, count: int) -> None:
    """Puts epochs into etcd with the load generator, many in each transaction."""
    transactions = -(-count // _PUTS_PER_TRANSACTION)
    tick = context.begin_progress(f"putting {count:,} epochs into etcd", transactions)
    value = mesh_pb2.Epoch(format=1).SerializeToString()

    def keys(number: int) -> Iterator[bytes]:
        for _ in range(min(_PUTS_PER_TRANSACTION, count - number * _PUTS_PER_TRANSACTION)):
            yield layout.epoch(_new_scope()).encode()

    def requests() -> Iterator[Any]:
        for number in range(transactions):
            puts = [_etcdrpc.RequestOp(request_put=_etcdrpc.PutRequest(key=key, value=value)) for key in keys(number)]
            yield etcd.request(
                "/etcdserverpb.KV/Txn", _etcdrpc.TxnRequest(success=puts).SerializeToString(), token=None
            )

    def check(response: Response) -> None:
        if not parse_message(response, _etcdrpc.TxnResponse).succeeded:
            raise CallFailed("etcd did not commit the epochs")
        tick()

    with Connection(context.environment.etcd_port) as etcd:
        make_calls([etcd], requests().__next__, check, calls=transactions, in_flight=_TRANSACTIONS_IN_FLIGHT)


def _idle_nodes(context: SuiteContext) -> list[Row]:
    """The requests of idle nodes by etcd's own count, and the calculated share of very many nodes in its capacity."""
    environment = context.environment
    with run_nodes(context, _IDLE_NODES, cores=LOAD_CORES):
        tick = context.begin_progress("idle nodes", 2)
        before, started_at = _request_count(environment), time.monotonic()
        # The nodes are idle during this sleep, and their requests are counted.
        time.sleep(context.scale.idle_seconds)
        requests, minutes = _request_count(environment) - before, (time.monotonic() - started_at) / 60
        tick()
    per_node = requests / _IDLE_NODES / minutes
    assert environment.etcd.pid is not None
    move(environment.etcd.pid, SERVING_CORES)
    answered = [_reads_per_second(context) for _ in range(min(context.scale.rounds, 5))]
    move(environment.etcd.pid, LOAD_CORES)
    tick()
    many = [per_node * _MANY_NODES / 60] * len(answered)
    return [
        single_row("growth", "etcd requests of an idle node", [per_node], unit="1/min", higher=False),
        comparison_row(
            "growth",
            f"requests of {_MANY_NODES:,} idle nodes, calculated ÷ requests that this etcd answers",
            many,
            answered,
            unit="1/s",
            higher=False,
        ),
    ]


def _request_count(environment: BenchEnvironment) -> float:
    """The calls and streams that etcd has received since it started."""
    with urllib.request.urlopen(f"http://{environment.etcd.endpoint}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("grpc_server_started_total{"))


def _reads_per_second(context: SuiteContext) -> float:
    """Linearizable reads of one key per second. A node's proof of freshness is such a read."""
    read = _etcdrpc.RangeRequest(key=Layout(PREFIX).beacon.encode())

    def check(response: Response) -> None:
        if not parse_message(response, _etcdrpc.RangeResponse).header.revision:
            raise CallFailed("a read was not answered")

    with Connection(context.environment.etcd_port) as etcd:
        request = etcd.request("/etcdserverpb.KV/Range", read.SerializeToString(), token=None)
        return make_calls(
            [etcd], lambda: request, check, seconds=context.scale.seconds, in_flight=_READS_IN_FLIGHT
        ).per_second


def _new_scope() -> str:
    return session_scope(secrets.token_urlsafe(16))
