"""Histories that are told by hand, a record at a time."""

from __future__ import annotations

from typing import Any, Self

from chaos.checker import Verdict, check
from chaos.history import Record

__all__ = ["Told"]


class Told:
    """A history under way. Every question takes a millisecond, and so does the time until the next.

    Nothing is said that would break a promise: tests say that part themselves.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.revision = 10
        self.records: list[Record] = []
        self._names = 0
        self.tell(
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
        """Time passes."""
        self.now += seconds
        return self

    def tell(self, op: str, *, lasts: float = 0.001, **fields: Any) -> Record:
        """Any record."""
        record = {"op": op, "t": self.now, "u": self.now + lasts, "by": "somebody", **fields}
        self.records.append(record)
        self.now += lasts + 0.001
        return record

    def etcd(self, what: str, **fields: Any) -> int:
        """What the observer saw; its revision."""
        self.revision += 1
        life = sum(one["op"] == "restore" for one in self.records)
        self.tell("etcd", lasts=0.0, what=what, revision=self.revision, life=life, **fields)
        return self.revision

    def rotated(self, kid: str, *, in_turn: bool = True, acked: bool = True) -> None:
        """A key was prepared, acknowledged by the node, and signs."""
        prepared = self.etcd("key", kid=kid, state=1, gone=False)
        if acked:
            self.etcd("ack", id="n1", applied=prepared)
        self.etcd("signing", kid=kid, gone=False)
        if in_turn:
            self.tell("rotate", at="auth-1", answer="ok", kid=kid)

    def issued(self, op: str = "login", **fields: Any) -> Record:
        """A credential was issued to alice."""
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
        return self.tell(op, **{**known, **fields})

    def refreshed(self, used: str, **fields: Any) -> Record:
        """A refresh token of alice's session was traded."""
        return self.issued("refresh", **{"used": used, "session": "s1", **fields})

    def refused(self, used: str, reason: str = "CREDENTIAL_REVOKED", **fields: Any) -> Record:
        """A refresh token of alice's session was not."""
        known = {"at": "auth-1", "answer": "refused", "reason": reason, "used": used, "session": "s1"}
        return self.tell("refresh", **{**known, "subject": "alice", "client": "password", **fields})

    def called(self, cred: str, answer: str = "ok", method: str = "Strict", **fields: Any) -> Record:
        """Alice called the node."""
        stamp = {"node": "n1", "mono": self.now, "wall": self.now} if answer == "ok" else {"reason": answer}
        word = "ok" if answer == "ok" else "refused"
        return self.tell("call", **{"at": "node-1", "cred": cred, "answer": word, "method": method, **stamp, **fields})

    def revoked(self, scope: str = "sub/alice", *, receipt: bool = True, seen: bool = True, **fields: Any) -> Record:
        """A scope was revoked, and every node has applied it."""
        revision = self.revision + 1
        self.now += 0.002
        if seen:
            self.etcd("epoch", scope=scope, gone=False)
        said = {"complete": True, "strict_in": 2.4, "applied": ["n1"], "lagging": []} if receipt else None
        known = {"at": "auth-1", "answer": "ok", "how": "revoke", "scope": scope, "wait": receipt}
        # It was asked for before the observer saw it.
        self.now -= 0.0015
        return self.tell("revoke", **{**known, "revision": revision, "receipt": said, **fields})

    def removed(self, kid: str, **fields: Any) -> Record:
        """A key was removed by force, and every node has applied it."""
        revision = self.etcd("key", kid=kid, state=0, gone=True)
        receipt = {"complete": True, "strict_in": 2.4, "applied": ["n1"], "lagging": []}
        known = {"at": "auth-1", "answer": "ok", "kid": kid, "wait": True, "revision": revision, "receipt": receipt}
        return self.tell("revoke-key", **{**known, **fields})

    def verdict(self, invariant: str) -> Verdict:
        """What the checker says of one invariant; of the others, that they were kept."""
        verdicts = check(sorted(self.records, key=lambda record: record["t"]))
        others = [f"{name}: {one.violations}" for name, one in verdicts.items() if name != invariant and not one.kept]
        assert not others, others
        return verdicts[invariant]
