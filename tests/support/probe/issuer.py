"""Keys and tokens for tests of verification, and the etcd records that the auth service would write for them."""

from __future__ import annotations

import secrets
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, Put
from interceptors.keyspace import Layout, moved_beacon
from interceptors.scopes import key_scope

__all__ = ["ISSUER", "Issuer", "claims", "key_record"]

ISSUER = "https://auth.test"


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token for the probe; a change to None leaves the claim out."""
    now = time.time()
    whole: dict[str, Any] = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": ["probe"],
        "exp": now + 300,
        "nbf": now,
        "iat": now,
        "jti": secrets.token_hex(8),
        "sid": "session-1",
        "client_id": "app",
        "scope": "probe.use probe.other",
        "epoch": 1 << 40,
        "session_exp": now + 3600,
    }
    whole.update(changes)
    return {name: value for name, value in whole.items() if value is not None}


def key_record(kid: str, private_key: Ed25519PrivateKey) -> mesh_pb2.VerificationKey:
    """The `mesh/keys/<kid>` record of a key."""
    public = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return mesh_pb2.VerificationKey(
        format=1,
        kid=kid,
        algorithm="EdDSA",
        public_key=public,
        state=mesh_pb2.VerificationKey.STATE_ACTIVE,
    )


class Issuer:
    """Signs tokens with keys that it puts into etcd, and revokes scopes there."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self.client = client
        self.layout = Layout(prefix)
        self.kid = ""
        self.private_key = Ed25519PrivateKey.generate()
        self.rotate()

    def rotate(self, *, publish: bool = True) -> str:
        """Makes a new signing key; its tokens are good as soon as it is published."""
        self.kid = secrets.token_hex(4)
        self.private_key = Ed25519PrivateKey.generate()
        if publish:
            self.publish()
        return self.kid

    def publish(self) -> int:
        """Puts the key into etcd."""
        record = key_record(self.kid, self.private_key)
        return self._commit(Put(self.layout.key(self.kid), record.SerializeToString()))

    def remove_key(self, kid: str) -> int:
        """Takes a key that has retired out of etcd."""
        return self._commit(Delete(self.layout.key(kid)))

    def revoke_key(self, kid: str) -> int:
        """Takes a key out of etcd by force."""
        epoch = mesh_pb2.Epoch(format=1).SerializeToString()
        return self._commit(Delete(self.layout.key(kid)), Put(self.layout.epoch(key_scope(kid)), epoch))

    def revoke(self, scope: str) -> int:
        """Revokes a scope; returns its new epoch."""
        return self._commit(Put(self.layout.epoch(scope), mesh_pb2.Epoch(format=1).SerializeToString()))

    def revision(self) -> int:
        """The newest revision: the epoch of a token that is issued now."""
        return self.client.read(self.layout.beacon).revision

    def token(self, *, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token of now; see `claims`. Its epoch is the newest revision unless it is given."""
        changes.setdefault("epoch", self.revision())
        headers = {"kid": self.kid, "typ": "at+jwt", **(header or {})}
        return jwt.encode(claims(**changes), self.private_key, algorithm="EdDSA", headers=headers)

    def _commit(self, *operations: Put | Delete) -> int:
        revision = self.client.commit([], [*operations, moved_beacon(self.layout)])
        assert revision is not None
        return revision
