"""The issuing parts of an auth replica without its server: real etcd, real keys, a clock that tests set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import jwt

from authsvc.accounts.accounts import Accounts
from authsvc.accounts.passwords import Passwords
from authsvc.accounts.principal import Account
from authsvc.keys.rotator import Rotator
from authsvc.keys.signer_cache import SignerCache
from authsvc.keys.vault import Vault, read_keks
from authsvc.revocation.revoker import Revoker
from authsvc.sessions.issuer import Issuer
from authsvc.sessions.sessions import KnownSessions, Sessions
from authsvc.settings import AuthSettings
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.etcd.client import Condition, CreatedAt, Delete, EtcdClient, Put, Snapshot, Transaction
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from interceptors.tokens.opaque_token import OpaqueToken
from interceptors.trust.bundle import TrustBundle

__all__ = ["ALICE_PASSWORD", "AUDIENCES", "SCOPES", "Clock", "InterruptedEtcdClient", "Replica", "claims_of"]

ALICE_PASSWORD = "alice-password"
SCOPES = ("shop.buy", "shop.read")
AUDIENCES = ("inventory", "storefront")


class Clock:
    """Seconds since 1970: the real time, plus as much as the test sets."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class InterruptedEtcdClient(EtcdClient):
    """A client of etcd that runs `before_commit` right before its next commit, to force the narrowest races."""

    def __init__(self, settings: EtcdSettings) -> None:
        super().__init__(settings)
        self.before_commit: Callable[[], object] | None = None

    def commit_and_read(
        self,
        conditions: Sequence[Condition],
        operations: Sequence[Put | Delete],
        keys: Sequence[str],
        *,
        timeout: float | None = None,
    ) -> Snapshot | None:
        """Runs `before_commit`, then commits. `commit` calls this too."""
        self._interrupt()
        return super().commit_and_read(conditions, operations, keys, timeout=timeout)

    def commit_each(
        self,
        transactions: Sequence[Transaction],
        *,
        conditions: Sequence[Condition],
        keys: Sequence[str],
        timeout: float | None = None,
    ) -> tuple[list[bool], Snapshot] | None:
        """Runs `before_commit`, then commits."""
        self._interrupt()
        return super().commit_each(transactions, conditions=conditions, keys=keys, timeout=timeout)

    def _interrupt(self) -> None:
        before_commit, self.before_commit = self.before_commit, None
        if before_commit is not None:
            before_commit()


class Replica:
    """The parts behind a replica's servicers. Several of these on one etcd behave as several replicas."""

    def __init__(
        self,
        etcd: EtcdClient,
        settings: AuthSettings,
        passwords: Passwords,
        clock: Clock,
        *,
        bundle: TrustBundle | None = None,
        directory: KnownSessions | None = None,
    ) -> None:
        self.etcd = etcd
        self.settings = settings
        self.clock = clock
        self.layout = Layout(settings.mesh.etcd.prefix)
        self.vault = Vault(*read_keks(file=settings.kek_file, text=settings.kek))
        self.passwords = passwords
        self.revocation = Revoker(etcd, self.layout, settings, clock=clock)
        self.accounts = Accounts(etcd, self.layout, passwords, self.revocation)
        signers = SignerCache(etcd, self.layout, self.vault)
        self.issuer = Issuer(
            etcd=etcd, layout=self.layout, signers=signers, settings=settings, bundle=bundle, clock=clock
        )
        self.sessions = Sessions(
            etcd=etcd,
            layout=self.layout,
            issuer=self.issuer,
            revocation=self.revocation,
            settings=settings,
            directory=directory,
            clock=clock,
        )

    def another(self, **settings: Any) -> Self:
        """Another replica on the same etcd, with its own leases and signers."""
        return type(self)(self.etcd, replace(self.settings, **settings), self.passwords, self.clock)

    def fence(self) -> CreatedAt:
        """The leader's fence. No other replica campaigns, so it holds until a test deletes the leader's key."""
        revision = self.etcd.commit([], [Put(self.layout.leader, b"")])
        assert revision is not None
        return CreatedAt(
            self.layout.leader, self.etcd.read(self.layout.leader).values[self.layout.leader].create_revision
        )

    def rotate(self) -> None:
        """Carries out the steps of the rotation that are due. On a new mesh they make the first key."""
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
        """Replaces the signing key at once."""
        self.etcd.commit([], [Delete(self.layout.signing)])
        self.rotate()

    def alice(self) -> Account:
        """Authenticates alice."""
        return self.accounts.authenticate_user("alice", ALICE_PASSWORD)

    def login(self, authenticate: Callable[[], Account] | None = None, **options: Any) -> auth_pb2.Credentials:
        """Signs alice in, or the account that `authenticate` returns."""
        return self.issuer.login(authenticate or self.alice, **options)

    def refresh(self, refresh_token: str) -> auth_pb2.Credentials:
        """Exchanges a refresh token."""
        return self.sessions.refresh(OpaqueToken.parse(refresh_token))[0]

    def record(self, session_id: str) -> store_pb2.SessionRecord | None:
        """A session's record in etcd; None if there is none."""
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
    """The claims of an access token, unverified."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims
