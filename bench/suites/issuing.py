"""Issuing: logins, refreshes and signatures, each against the one thing that it cannot do without."""

from __future__ import annotations

import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from authsvc.keys.algorithms import generate
from authsvc.keys.signer import Signer
from bench.authority import Authority
from bench.load.driver import drive, message
from bench.load.http2 import Answer, CallFailed, Connection, Request
from bench.machine import SERVING_CORES
from bench.results.statistics import Row, compare, interleave
from bench.run import Run
from bench.verifying import microseconds
from bench.world import Child
from credmesh.auth.v1 import auth_pb2
from interceptors.etcd.compat import import_etcdrpc

__all__ = ["issuing"]

_etcdrpc: Final = import_etcdrpc()
_AUTH: Final = "/credmesh.auth.v1.AuthService/"
_WORKERS: Final = 2
"""As CREDMESH_PASSWORD_WORKERS has it by default."""
_SESSIONS: Final = 8
_SIGNATURES: Final = 200
_RECORD_BYTES: Final = 400
"""About what a session's record takes."""


def issuing(run: Run) -> list[Row]:
    """Logins against argon2id, refreshes against an etcd transaction, tokens against a bare signature."""
    with Authority(run.world, cores=SERVING_CORES) as authority:
        return [_logins(run, authority), _refreshes(run, authority), _signatures(run)]


def _logins(run: Run, authority: Authority) -> Row:
    # A check takes a good tenth of a second of a core, so these are few, and steady all the same.
    count, rounds = max(2, int(16 * run.scale.seconds)), run.scale.rounds // 2 + 1
    tick = run.begin("logins", 2 * rounds)
    with ExitStack() as stack:
        connection = stack.enter_context(Connection(authority.port))
        request = connection.request(_AUTH + "Login", authority.login_request().SerializeToString(), token=None)
        child = Child(
            "bench.workers.hasher", {"workers": _WORKERS}, cores=SERVING_CORES, log_file=run.world.folder / "hash.log"
        )
        stack.callback(child.stop)

        def check(answer: Answer) -> None:
            if not message(answer, auth_pb2.LoginResponse).credentials.access_token:
                raise CallFailed("a login gave no token")

        def log_in() -> float:
            return drive([connection], lambda: request, check, calls=count, in_flight=2 * _WORKERS).per_second

        def hash_only() -> float:
            child.tell({"count": count})
            return count / float(str(child.hear()["seconds"]))

        samples = interleave({"ours": log_in, "argon2": hash_only}, rounds, tick=tick)
    name = "logins ÷ bare argon2id checks"
    return compare("issuing", name, samples["ours"], samples["argon2"], unit="1/s", higher=True)


def _refreshes(run: Run, authority: Authority) -> Row:
    """Sessions that refresh one after the other, as many at once as transactions are under way."""
    rounds, seconds = run.scale.rounds, run.scale.seconds
    tick = run.begin("refreshes", 2 * rounds)
    with Connection(authority.port) as connection, Connection(int(run.world.etcd.endpoint.rpartition(":")[2])) as etcd:
        ready: deque[Request] = deque()

        def put_back(credentials: auth_pb2.Credentials) -> None:
            refresh = auth_pb2.RefreshRequest(refresh_token=credentials.refresh_token).SerializeToString()
            ready.append(connection.request(_AUTH + "Refresh", refresh, token=None))

        def check(answer: Answer) -> None:
            put_back(message(answer, auth_pb2.RefreshResponse).credentials)

        def refresh() -> float:
            next_request = lambda: ready.popleft() if ready else None  # noqa: E731
            return drive([connection], next_request, check, seconds=seconds, in_flight=_SESSIONS).per_second

        for _ in range(_SESSIONS):
            put_back(authority.login())
        variants = {"ours": refresh, "etcd": _transactions(etcd, seconds)}
        samples = interleave(variants, rounds, tick=tick)
    name = "refreshes ÷ bare etcd transactions"
    return compare("issuing", name, samples["ours"], samples["etcd"], unit="1/s", higher=True)


def _transactions(etcd: Connection, seconds: float) -> Callable[[], float]:
    """Compare and put, sent by the load generator: what etcd itself has to give on this disk."""

    def request(number: int) -> Request:
        key, value = b"/bare/%d" % number, secrets.token_bytes(_RECORD_BYTES)
        condition = _etcdrpc.Compare(key=key, result=_etcdrpc.Compare.GREATER, target=_etcdrpc.Compare.MOD)
        put = _etcdrpc.RequestOp(request_put=_etcdrpc.PutRequest(key=key, value=value))
        transaction = _etcdrpc.TxnRequest(compare=[condition], success=[put], failure=[put])
        return etcd.request("/etcdserverpb.KV/Txn", transaction.SerializeToString(), token=None)

    requests = [request(number) for number in range(64)]
    turn = iter(range(1 << 60))

    def check(answer: Answer) -> None:
        if not message(answer, _etcdrpc.TxnResponse).header.revision:
            raise CallFailed("a transaction was not answered")

    def commit() -> float:
        next_request = lambda: requests[next(turn) % len(requests)]  # noqa: E731
        return drive([etcd], next_request, check, seconds=seconds, in_flight=_SESSIONS).per_second

    return commit


def _signatures(run: Run) -> Row:
    tick = run.begin("signatures", 2 * run.scale.rounds)
    private_key: Any = generate("EdDSA")
    signer = Signer("0123456789abcdef", "EdDSA", private_key)
    claims = [_claims(run, number) for number in range(_SIGNATURES)]
    messages = [urlsafe_b64encode(json.dumps(one).encode()) for one in claims]

    def rate(work: Callable[[Any], object], items: Sequence[Any]) -> Callable[[], float]:
        return lambda: 1e6 / microseconds(work, items)

    variants = {"ours": rate(signer.sign, claims), "bare": rate(private_key.sign, messages)}
    samples = interleave(variants, run.scale.rounds, tick=tick)
    name = "token signatures ÷ bare Ed25519 signatures"
    return compare("issuing", name, samples["ours"], samples["bare"], unit="1/s", higher=True)


def _claims(run: Run, number: int) -> dict[str, Any]:
    body = run.world.tokens.make(f"user-{number}").split(".")[1]
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims
