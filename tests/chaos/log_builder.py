"""Building operation logs by hand, one record at a time."""

from __future__ import annotations

from typing import Any, Self

from chaos.checker import Verdict, check
from chaos.operation_log import Record

__all__ = ["OperationLogBuilder"]


class OperationLogBuilder:
    """An operation log that grows. Every operation takes a millisecond, and the next begins a millisecond later.

    Each method adds records that break no promise, unless a test overrides their fields.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.revision = 10
        self.records: list[Record] = []
        self._names = 0
        self.add(
            "meta",
            freshness=2.5,
            token_lifetime=20.0,
            refresh_grace=3.0,
            leeway=5.0,
            auths=["auth-1", "auth-2"],
            nodes=["node-1"],
        )
        self.etcd("node", id="n1", name="node-1", gone=False)
        self.rotated("k1", in_turn=False)

    def after(self, seconds: float) -> Self:
        """Lets time pass."""
        self.now += seconds
        return self

    def add(self, op: str, *, lasts: float = 0.001, **fields: Any) -> Record:
        """Adds any record."""
        record = {"op": op, "t": self.now, "u": self.now + lasts, "by": "client", **fields}
        self.records.append(record)
        self.now += lasts + 0.001
        return record

    def etcd(self, what: str, **fields: Any) -> int:
        """Adds a record of the observer. Returns its revision."""
        self.revision += 1
        incarnation = sum(one["op"] == "restore" for one in self.records)
        self.add("etcd", lasts=0.0, what=what, revision=self.revision, incarnation=incarnation, **fields)
        return self.revision

    def rotated(self, kid: str, *, in_turn: bool = True, acked: bool = True) -> None:
        """Adds a rotation: a key is PREPARED, acknowledged by the node, and becomes ACTIVE."""
        prepared = self.etcd("key", kid=kid, state=1, gone=False)
        if acked:
            self.etcd("ack", id="n1", applied=prepared)
        self.etcd("signing", kid=kid, gone=False)
        if in_turn:
            self.add("rotate", at="auth-1", answer="ok", kid=kid)

    def issued(self, op: str = "login", **fields: Any) -> Record:
        """Adds a credential that was issued to alice."""
        self._names += 1
        known = {
            "at": "auth-1",
            "answer": "ok",
            "subject": "alice",
            "client": "password",
            "cred": f"c{self._names}",
            "kind": "token",
            "sid": "s1",
            "aud": ["chaos"],
            "refresh": f"r{self._names}",
            "epoch": self.revision,
            "kid": "k1",
            "iat": int(self.now),
            "exp": int(self.now) + 20,
        }
        return self.add(op, **{**known, **fields})

    def refreshed(self, used: str, **fields: Any) -> Record:
        """Adds a successful refresh of alice's session."""
        return self.issued("refresh", **{"used": used, "session": "s1", **fields})

    def refused(self, used: str, reason: str = "CREDENTIAL_REVOKED", **fields: Any) -> Record:
        """Adds a refused refresh of alice's session."""
        known = {"at": "auth-1", "answer": "refused", "reason": reason, "used": used, "session": "s1"}
        return self.add("refresh", **{**known, "subject": "alice", "client": "password", **fields})

    def called(self, cred: str, answer: str = "ok", method: str = "Strict", **fields: Any) -> Record:
        """Adds a call of the node by alice."""
        stamp = {"node": "n1", "mono": self.now, "wall": self.now} if answer == "ok" else {"reason": answer}
        word = "ok" if answer == "ok" else "refused"
        return self.add("call", **{"at": "node-1", "cred": cred, "answer": word, "method": method, **stamp, **fields})

    def revoked(self, scope: str = "sub/alice", *, receipt: bool = True, seen: bool = True, **fields: Any) -> Record:
        """Adds a revocation of a scope that every node has applied."""
        revision = self.revision + 1
        self.now += 0.002
        if seen:
            self.etcd("epoch", scope=scope, gone=False)
        answer = {"complete": True, "strict_in": 2.4, "applied": ["n1"], "lagging": []} if receipt else None
        known = {"at": "auth-1", "answer": "ok", "how": "revoke", "scope": scope, "wait": receipt}
        # It was requested before the observer logged it.
        self.now -= 0.0015
        return self.add("revoke", **{**known, "revision": revision, "receipt": answer, **fields})

    def removed(self, kid: str, **fields: Any) -> Record:
        """Adds a revocation of a key that every node has applied."""
        revision = self.etcd("key", kid=kid, state=0, gone=True)
        receipt = {"complete": True, "strict_in": 2.4, "applied": ["n1"], "lagging": []}
        known = {"at": "auth-1", "answer": "ok", "kid": kid, "wait": True, "revision": revision, "receipt": receipt}
        return self.add("revoke-key", **{**known, **fields})

    def verdict(self, invariant: str) -> Verdict:
        """Returns the checker's verdict on one invariant, and asserts that the others were kept."""
        verdicts = check(sorted(self.records, key=lambda record: record["t"]))
        others = [f"{name}: {one.violations}" for name, one in verdicts.items() if name != invariant and not one.kept]
        assert not others, others
        return verdicts[invariant]
