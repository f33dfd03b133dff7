"""The environment of a benchmark run: an etcd, a published signing key, tokens of that key, and certificates."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from authsvc.keys.algorithms import DEFAULT_ALGORITHM, generate_private_key, public_der
from authsvc.keys.signer import Signer
from bench.shop import AUDIENCE, SCOPE
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout, beacon_update
from interceptors.settings import EtcdSettings
from localmesh.certs import Certificates, development_certificates
from localmesh.etcd.process import EtcdProcess

__all__ = ["ISSUER", "PREFIX", "BenchEnvironment", "BenchFailed", "TokenFactory"]

ISSUER: Final = "https://auth.bench"
PREFIX: Final = "/bench/"
_TOKEN_LIFETIME_SECONDS: Final = 7200


class BenchFailed(Exception):
    """The benchmark cannot go on. The text says why."""


class TokenFactory:
    """Signs access tokens as the auth service does, with a new key."""

    def __init__(self, *, algorithm: str = DEFAULT_ALGORITHM) -> None:
        self.kid = secrets.token_hex(8)
        self.algorithm = algorithm
        private_key = generate_private_key(algorithm)
        self.public_key = private_key.public_key()
        self.public_der = public_der(private_key)
        self._signer = Signer(self.kid, algorithm, private_key)
        self.epoch = 0

    def record(self) -> mesh_pb2.VerificationKey:
        """The key's record in etcd, from which nodes learn it."""
        return mesh_pb2.VerificationKey(
            format=1,
            kid=self.kid,
            algorithm=self.algorithm,
            public_key=self.public_der,
            state=mesh_pb2.VerificationKey.STATE_ACTIVE,
        )

    def make(self, subject: str = "alice", *, session: str | None = None) -> str:
        """A new token that is valid for the whole run. Its `jti` is new, and its `sid` unless `session` is given."""
        now = int(time.time())
        return self._signer.sign(
            {
                "iss": ISSUER,
                "sub": subject,
                "aud": ["storefront", "orders", AUDIENCE, "credmesh.auth"],
                "exp": now + _TOKEN_LIFETIME_SECONDS,
                "nbf": now - 1,
                "iat": now,
                "jti": secrets.token_urlsafe(16),
                "sid": session or secrets.token_urlsafe(16),
                "client_id": "password",
                "scope": f"{SCOPE} shop.buy",
                "epoch": self.epoch,
                "session_exp": now + _TOKEN_LIFETIME_SECONDS,
            }
        )


class BenchEnvironment:
    """An etcd with a published signing key, and certificates. All files are below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etcd = EtcdProcess(folder / "etcd", log_file=self.log_file("etcd"))
        self.certificates: Certificates = development_certificates(folder / "tls")
        self.tokens = TokenFactory()
        self.layout = Layout(PREFIX)

    @property
    def settings(self) -> EtcdSettings:
        """The settings of a client of the etcd."""
        return self.etcd.settings(PREFIX)

    @property
    def etcd_port(self) -> int:
        """The port of the etcd on 127.0.0.1."""
        return int(self.etcd.endpoint.rpartition(":")[2])

    def log_file(self, name: str) -> Path:
        """The log file of a kind of process."""
        return self.folder / f"{name}.log"

    def publish(self, tokens: TokenFactory) -> None:
        """Publishes a key to all nodes. From now on the factory's tokens carry the commit's revision as their epoch."""
        put = Put(self.layout.key(tokens.kid), tokens.record().SerializeToString())
        tokens.epoch = self.client.commit([], [put, beacon_update(self.layout)]) or 0

    def revoke(self, scopes: Sequence[str]) -> int:
        """Revokes scopes in one transaction, as the auth service does. Returns its revision."""
        epoch = mesh_pb2.Epoch(format=1).SerializeToString()
        puts = [Put(self.layout.epoch(scope), epoch) for scope in scopes]
        return self.client.commit([], [*puts, beacon_update(self.layout)]) or 0

    def __enter__(self) -> Self:
        self.etcd.start()
        self.client = EtcdClient(self.settings)
        self.publish(self.tokens)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.close()
        self.etcd.stop()
