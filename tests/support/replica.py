"""The issuing half of one auth replica, without its server: real etcd, real keys, a clock that tests set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import jwt

from authsvc.accounts.accounts import Accounts
from authsvc.accounts.passwords import Passwords
from authsvc.accounts.principal import Account
from authsvc.keys.ring import KeyRing
from authsvc.keys.rotator import Rotator
from authsvc.keys.vault import Vault, read_keks
from authsvc.revocation.revoker import Revoker
from authsvc.sessions.issuer import Issuer
from authsvc.sessions.sessions import Sessions
from authsvc.settings import AuthSettings
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, NoneSince, Put, Unchanged
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from interceptors.tokens.opaque_token import OpaqueToken

__all__ = ["ALICE_PASSWORD", "AUDIENCES", "SCOPES", "Clock", "Interrupted", "Replica", "claims_of"]

ALICE_PASSWORD = "alice-password"
SCOPES = ("shop.buy", "shop.read")
AUDIENCES = ("inventory", "storefront")


class Clock:
    """Seconds since 1970: the real time, moved by as much as the test says."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Interrupted(EtcdClient):
    """A client of etcd before whose next commit something else happens: for the narrowest of races."""

    def __init__(self, settings: EtcdSettings) -> None:
        super().__init__(settings)
        self.before_commit: Callable[[], object] | None = None

    def commit(
        self,
        conditions: Sequence[Unchanged | CreatedAt | NoneSince],
        operations: Sequence[Put | Delete],
        *,
        timeout: float | None = None,
    ) -> int | None:
        """Lets the other thing happen first."""
        happen, self.before_commit = self.before_commit, None
        if happen is not None:
            happen()
        return super().commit(conditions, operations, timeout=timeout)


class Replica:
    """What a replica's server has behind its servicers. Several of them on one etcd are several replicas."""

    def __init__(self, etcd: EtcdClient, settings: AuthSettings, passwords: Passwords, clock: Clock) -> None:
        self.etcd = etcd
        self.settings = settings
        self.clock = clock
        self.layout = Layout(settings.mesh.etcd.prefix)
        self.vault = Vault(*read_keks(file=settings.kek_file, text=settings.kek))
        self.passwords = passwords
        self.revocation = Revoker(etcd, self.layout, settings, clock=clock)
        self.accounts = Accounts(etcd, self.layout, passwords, self.revocation)
        ring = KeyRing(etcd, self.layout, self.vault)
        self.issuer = Issuer(etcd=etcd, layout=self.layout, ring=ring, settings=settings, clock=clock)
        self.sessions = Sessions(
            etcd=etcd,
            layout=self.layout,
            issuer=self.issuer,
            revocation=self.revocation,
            settings=settings,
            clock=clock,
        )

    def another(self, **settings: Any) -> Self:
        """Another replica on the same etcd, with its own leases and opened keys."""
        return type(self)(self.etcd, replace(self.settings, **settings), self.passwords, self.clock)

    def fence(self) -> CreatedAt:
        """The leader's fence. In these tests nobody is deposed, unless somebody deletes the leader's key."""
        revision = self.etcd.commit([], [Put(self.layout.leader, b"")])
        assert revision is not None
        return CreatedAt(
            self.layout.leader, self.etcd.read(self.layout.leader).values[self.layout.leader].create_revision
        )

    def rotate(self) -> None:
        """Carries out what is due of the rotation; on a new mesh that is making the first key."""
        rotator = Rotator(
            self.etcd,
            self.layout,
            self.vault,
            rotation_interval=self.settings.rotation_interval,
            token_lifetime=self.settings.token_lifetime,
            leeway=self.settings.mesh.leeway,
        )
        rotator.step(self.fence())

    def replace_signing_key(self) -> None:
        """Has another key sign, at once."""
        self.etcd.commit([], [Delete(self.layout.signing)])
        self.rotate()

    def alice(self) -> Account:
        """Authenticates alice."""
        return self.accounts.authenticate_user("alice", ALICE_PASSWORD)

    def login(self, authenticate: Callable[[], Account] | None = None, **options: Any) -> auth_pb2.Credentials:
        """Signs alice in, or whoever `authenticate` finds."""
        return self.issuer.login(authenticate or self.alice, **options)

    def refresh(self, refresh_token: str) -> auth_pb2.Credentials:
        """Trades a refresh token."""
        return self.sessions.refresh(OpaqueToken.parse(refresh_token))[0]

    def record(self, session_id: str) -> store_pb2.SessionRecord | None:
        """A session's record as it lies in etcd."""
        key = self.layout.session(session_id)
        stored = self.etcd.read(key).values.get(key)
        return None if stored is None else store_pb2.SessionRecord.FromString(stored.value)

    def epoch(self, scope: str) -> int:
        """A scope's epoch; 0 if it was never revoked."""
        key = self.layout.epoch(scope)
        stored = self.etcd.read(key).values.get(key)
        return 0 if stored is None else stored.mod_revision

    def revoke(self, scope: str) -> int:
        """Revokes a scope."""
        revision = self.revocation.revoke(scope, actor="test", reason="test")
        assert revision is not None
        return revision


def claims_of(token: str) -> dict[str, Any]:
    """What an access token says, unverified."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims
