"""Keys and tokens for tests of verification, and their etcd records as the auth service writes them."""

from __future__ import annotations

import secrets
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, Put
from interceptors.keyspace import Layout, beacon_update
from interceptors.scopes import key_scope

__all__ = ["ISSUER", "Issuer", "claims", "key_record"]

ISSUER = "https://auth.test"


def claims(**changes: Any) -> dict[str, Any]:
    """Returns the claims of a valid token for the probe, with changes. None removes a claim."""
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
    """Returns the record `mesh/keys/<kid>` of a key."""
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
        """Makes a new signing key. Its tokens are valid once it is published."""
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
        """Removes a retired key."""
        return self._commit(Delete(self.layout.key(kid)))

    def revoke_key(self, kid: str) -> int:
        """Revokes a key."""
        epoch = mesh_pb2.Epoch(format=1).SerializeToString()
        return self._commit(Delete(self.layout.key(kid)), Put(self.layout.epoch(key_scope(kid)), epoch))

    def revoke(self, scope: str) -> int:
        """Revokes a scope, and returns its new epoch."""
        return self._commit(Put(self.layout.epoch(scope), mesh_pb2.Epoch(format=1).SerializeToString()))

    def revision(self) -> int:
        """Returns the newest revision: the epoch of a token that is issued now."""
        return self.client.read(self.layout.beacon).revision

    def token(self, *, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """Issues a token; see `claims`. Its epoch is the newest revision unless one is given."""
        changes.setdefault("epoch", self.revision())
        headers = {"kid": self.kid, "typ": "at+jwt", **(header or {})}
        return jwt.encode(claims(**changes), self.private_key, algorithm="EdDSA", headers=headers)

    def _commit(self, *operations: Put | Delete) -> int:
        revision = self.client.commit([], [*operations, beacon_update(self.layout)])
        assert revision is not None
        return revision
