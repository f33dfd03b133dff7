"""What is measured in: an etcd, a signing key that it publishes, tokens, and processes on their cores."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from authsvc.keys.algorithms import generate, public_der
from authsvc.keys.signer import Signer
from bench.machine import SERVING_CORES, cpu_seconds
from bench.shop import AUDIENCE, SCOPE
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout, moved_beacon
from interceptors.settings import EtcdSettings
from localmesh.certs import Certificates, development_certificates
from localmesh.etcd.process import EtcdProcess
from localmesh.processes.process import leashed

__all__ = ["ISSUER", "PREFIX", "BenchFailed", "Child", "Server", "ServerKind", "Tokens", "World"]

ISSUER: Final = "https://auth.bench"
PREFIX: Final = "/bench/"
_END_WITHIN: Final = 30.0
_TOKEN_SECONDS: Final = 7200


class BenchFailed(Exception):
    """The benchmark cannot go on. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKind:
    """One of the servers that are compared.

    aio      grpc.aio.server rather than grpc.server
    guard    who decides on calls: "none", "credmesh", "handwritten" (PyJWT) or "introspection"
    tls      whether it serves TLS
    threads  of a grpc.server: how many calls it serves at once
    """

    aio: bool
    guard: str = "none"
    tls: bool = False
    threads: int = 32

    @property
    def name(self) -> str:
        """For messages."""
        return f"{'aio' if self.aio else 'sync'} server, guard {self.guard}{', TLS' if self.tls else ''}"


class Tokens:
    """Signs access tokens as the auth service does, with a key of its own."""

    def __init__(self, *, algorithm: str = "EdDSA") -> None:
        self.kid = secrets.token_hex(8)
        self.algorithm = algorithm
        private_key = generate(algorithm)
        self.public_key = private_key.public_key()
        self.public_der = public_der(private_key)
        self._signer = Signer(self.kid, algorithm, private_key)
        self.epoch = 0

    def record(self) -> mesh_pb2.VerificationKey:
        """The record by which nodes know the key."""
        return mesh_pb2.VerificationKey(
            format=1,
            kid=self.kid,
            algorithm=self.algorithm,
            public_key=self.public_der,
            state=mesh_pb2.VerificationKey.STATE_ACTIVE,
        )

    def make(self, subject: str = "alice", *, session: str | None = None) -> str:
        """A token that is good for the whole run. Each is another one: `jti` and, unless it is given, `sid` are new."""
        now = int(time.time())
        return self._signer.sign(
            {
                "iss": ISSUER,
                "sub": subject,
                "aud": ["storefront", "orders", AUDIENCE, "credmesh.auth"],
                "exp": now + _TOKEN_SECONDS,
                "nbf": now - 1,
                "iat": now,
                "jti": secrets.token_urlsafe(16),
                "sid": session or secrets.token_urlsafe(16),
                "client_id": "password",
                "scope": f"{SCOPE} shop.buy",
                "epoch": self.epoch,
                "session_exp": now + _TOKEN_SECONDS,
            }
        )


class Server:
    """A server in a process of its own, on the serving core. See bench/workers/server.py.

    prefix         of the mesh whose tokens it takes, if that is not the world's own
    auth           the auth service that it asks, with the secret of client "services" (guard "introspection")
    """

    def __init__(
        self,
        kind: ServerKind,
        world: World,
        *,
        prefix: str | None = None,
        auth: str = "",
        client_secret: str = "",
        cores: frozenset[int] = SERVING_CORES,
    ) -> None:
        self.kind = kind
        self.ca_file = world.certificates.ca_file if kind.tls else None
        settings = {
            **asdict(kind),
            "etcd": world.etcd.endpoint,
            "prefix": prefix or PREFIX,
            "issuer": ISSUER,
            "public_key": world.tokens.public_der.hex(),
            "cert_file": str(world.certificates.cert_file) if kind.tls else "",
            "key_file": str(world.certificates.key_file) if kind.tls else "",
            "auth": auth,
            "client_secret": client_secret,
        }
        self._process = Child("bench.workers.server", settings, cores=cores, log_file=world.folder / "servers.log")
        self.pids = [self._process.pid]
        self.port = int(str(self._process.said["port"]))

    def cpu_seconds(self) -> float:
        """What serving has cost so far: CPU seconds of all processes that take part."""
        return sum(map(cpu_seconds, self.pids))

    def stop(self) -> None:
        """Ends it."""
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class Child:
    """A program of this package in a process of its own: told by one line of JSON, and answering by lines of JSON.

    It dies with this process at the latest.

    ready  whether to wait for its first line, which it writes when it is ready
    said   that line
    """

    def __init__(
        self, module: str, settings: object, *, cores: frozenset[int], log_file: Path, ready: bool = True
    ) -> None:
        self._module = module
        self._log_file = log_file
        command = leashed([sys.executable, "-m", module, json.dumps(sorted(cores)), json.dumps(settings)])
        with log_file.open("ab") as log:
            self._popen = subprocess.Popen(  # our own command
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.pid = self._popen.pid
        self.said: dict[str, object] = {}
        if ready:
            self.listen()

    def listen(self) -> None:
        """Waits for its first line, where it was started without waiting for that."""
        self.said = self.hear()

    def hear(self) -> dict[str, object]:
        """Its next line. BenchFailed if it has ended instead."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise BenchFailed(f"python -m {self._module} ended before it answered; see {self._log_file}")
        said: dict[str, object] = json.loads(line)
        return said

    def tell(self, message: object) -> None:
        """Sends it a line."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(message) + "\n")
        self._popen.stdin.flush()

    def end(self) -> None:
        """Lets it end in its own way, which its input's end tells it to."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        try:
            self._popen.wait(_END_WITHIN)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends it at once; nothing of it is worth a drain."""
        self._popen.kill()
        self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                stream.close()


class World:
    """An etcd, a key that is published there, and certificates; everything below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etcd = EtcdProcess(folder / "etcd", log_file=folder / "etcd.log")
        self.certificates: Certificates = development_certificates(folder / "tls")
        self.tokens = Tokens()
        self.layout = Layout(PREFIX)

    @property
    def settings(self) -> EtcdSettings:
        """How to reach the etcd."""
        return self.etcd.settings(PREFIX)

    def publish(self, tokens: Tokens) -> None:
        """Lets every node know of a key; what it signs from now on is as of now."""
        put = Put(self.layout.key(tokens.kid), tokens.record().SerializeToString())
        tokens.epoch = self.client.commit([], [put, moved_beacon(self.layout)]) or 0

    def revoke(self, scopes: Sequence[str]) -> int:
        """Puts the scopes' epochs in one transaction, as the auth service does; the revision."""
        epoch = mesh_pb2.Epoch(format=1).SerializeToString()
        puts = [Put(self.layout.epoch(scope), epoch) for scope in scopes]
        return self.client.commit([], [*puts, moved_beacon(self.layout)]) or 0

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
