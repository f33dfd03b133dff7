"""Issuing: logins, refreshes and signatures, each compared with the operation that limits it."""

from __future__ import annotations

import itertools
import json
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from authsvc.keys.algorithms import generate_private_key
from authsvc.keys.signer import Signer
from bench.auth_replica import AuthReplica
from bench.load.driver import make_calls, parse_message
from bench.load.http2 import CallFailed, Connection, Request, Response
from bench.machine import SERVING_CORES
from bench.processes import WorkerProcess
from bench.results.statistics import Row, comparison_row, interleave
from bench.suite import SuiteContext
from bench.verifying import cpu_microseconds_each
from credmesh.auth.v1 import auth_pb2
from interceptors.etcd.compat import import_etcdrpc
from interceptors.tokens import base64url
from localmesh.forged_tokens import claims_of

__all__ = ["issuing"]

_etcdrpc: Final = import_etcdrpc()
_AUTH: Final = "/credmesh.auth.v1.AuthService/"
_PASSWORD_WORKERS: Final = 2
"""The default of CREDMESH_PASSWORD_WORKERS."""
_SESSIONS: Final = 8
_SIGNATURES: Final = 200
_RECORD_BYTES: Final = 400
"""About the size of a session's record."""


def issuing(context: SuiteContext) -> list[Row]:
    """Logins ÷ argon2id checks, refreshes ÷ etcd transactions, token signatures ÷ bare signatures."""
    with AuthReplica(context.environment, cores=SERVING_CORES) as replica:
        return [_logins(context, replica), _refreshes(context, replica), _signatures(context)]


def _logins(context: SuiteContext, replica: AuthReplica) -> Row:
    # One argon2id check takes more than a tenth of a second of a core, so a few of them are enough for a steady rate.
    count, rounds = max(2, int(16 * context.scale.seconds)), context.scale.rounds // 2 + 1
    tick = context.begin_progress("logins", 2 * rounds)
    with ExitStack() as stack:
        connection = stack.enter_context(Connection(replica.port))
        request = connection.request(_AUTH + "Login", replica.login_request().SerializeToString(), token=None)
        log_file = context.environment.log_file("hasher")
        settings = {"workers": _PASSWORD_WORKERS}
        hasher = WorkerProcess("bench.workers.hasher", settings, cores=SERVING_CORES, log_file=log_file)
        stack.callback(hasher.kill)

        def check(response: Response) -> None:
            if not parse_message(response, auth_pb2.LoginResponse).credentials.access_token:
                raise CallFailed("a login was answered without a token")

        def log_in() -> float:
            in_flight = 2 * _PASSWORD_WORKERS
            return make_calls([connection], lambda: request, check, calls=count, in_flight=in_flight).per_second

        def hash_only() -> float:
            hasher.send({"count": count})
            return count / float(str(hasher.receive()["seconds"]))

        samples = interleave({"ours": log_in, "argon2": hash_only}, rounds, tick=tick)
    name = "logins ÷ bare argon2id checks"
    return comparison_row("issuing", name, samples["ours"], samples["argon2"], unit="1/s", higher=True)


def _refreshes(context: SuiteContext, replica: AuthReplica) -> Row:
    """Sessions that refresh in turn. As many refreshes are in flight as transactions of the peer."""
    rounds, seconds = context.scale.rounds, context.scale.seconds
    tick = context.begin_progress("refreshes", 2 * rounds)
    with Connection(replica.port) as connection, Connection(context.environment.etcd_port) as etcd:
        ready: deque[Request] = deque()

        def enqueue(credentials: auth_pb2.Credentials) -> None:
            refresh = auth_pb2.RefreshRequest(refresh_token=credentials.refresh_token).SerializeToString()
            ready.append(connection.request(_AUTH + "Refresh", refresh, token=None))

        def check(response: Response) -> None:
            enqueue(parse_message(response, auth_pb2.RefreshResponse).credentials)

        def refresh() -> float:
            next_request = lambda: ready.popleft() if ready else None  # noqa: E731
            return make_calls([connection], next_request, check, seconds=seconds, in_flight=_SESSIONS).per_second

        for _ in range(_SESSIONS):
            enqueue(replica.login())
        variants = {"ours": refresh, "etcd": _transactions(etcd, seconds)}
        samples = interleave(variants, rounds, tick=tick)
    name = "refreshes ÷ bare etcd transactions"
    return comparison_row("issuing", name, samples["ours"], samples["etcd"], unit="1/s", higher=True)


def _transactions(etcd: Connection, seconds: float) -> Callable[[], float]:
    """Transactions of a compare and a put, sent by the load generator: the limit of this etcd on this disk."""

    def request(number: int) -> Request:
        key, value = b"/bare/%d" % number, secrets.token_bytes(_RECORD_BYTES)
        condition = _etcdrpc.Compare(key=key, result=_etcdrpc.Compare.GREATER, target=_etcdrpc.Compare.MOD)
        put = _etcdrpc.RequestOp(request_put=_etcdrpc.PutRequest(key=key, value=value))
        transaction = _etcdrpc.TxnRequest(compare=[condition], success=[put], failure=[put])
        return etcd.request("/etcdserverpb.KV/Txn", transaction.SerializeToString(), token=None)

    requests = [request(number) for number in range(64)]
    numbers = itertools.count()

    def check(response: Response) -> None:
        if not parse_message(response, _etcdrpc.TxnResponse).header.revision:
            raise CallFailed("a transaction was not answered")

    def commit() -> float:
        next_request = lambda: requests[next(numbers) % len(requests)]  # noqa: E731
        return make_calls([etcd], next_request, check, seconds=seconds, in_flight=_SESSIONS).per_second

    return commit


def _signatures(context: SuiteContext) -> Row:
    tick = context.begin_progress("signatures", 2 * context.scale.rounds)
    private_key: Any = generate_private_key("ES256")
    signer = Signer("0123456789abcdef", "ES256", private_key)
    ecdsa = ECDSA(SHA256())
    claims = [claims_of(context.environment.tokens.make(f"user-{number}")) for number in range(_SIGNATURES)]
    messages = [base64url.encode(json.dumps(one).encode()).encode() for one in claims]

    def rate(work: Callable[[Any], object], items: Sequence[Any]) -> Callable[[], float]:
        return lambda: 1e6 / cpu_microseconds_each(work, items)

    variants = {
        "ours": rate(signer.sign, claims),
        "bare": rate(lambda message: private_key.sign(message, ecdsa), messages),
    }
    samples = interleave(variants, context.scale.rounds, tick=tick)
    name = "token signatures ÷ bare ES256 signatures"
    return comparison_row("issuing", name, samples["ours"], samples["bare"], unit="1/s", higher=True)
