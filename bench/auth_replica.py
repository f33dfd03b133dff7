"""A real replica of the auth service in its own process: `python -m authsvc`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from authsvc.accounts.bootstrap import generate_kek, seed_development
from bench.environment import ISSUER, BenchEnvironment, BenchFailed
from credmesh.admin.v1 import keys_pb2_grpc, nodes_pb2_grpc, revocation_pb2_grpc
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.client import ClientSecret, Credentials, channel
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from localmesh.processes.process import tied_to_parent

__all__ = ["PREFIX", "AuthReplica"]

_STOP_TIMEOUT_SECONDS: Final = 30.0
_LOGIN_TIMEOUT_SECONDS: Final = 30.0
_POLL_INTERVAL_SECONDS: Final = 0.02

PREFIX: Final = "/replica/"
"""Not the environment's prefix: the replica's rotation must not find a key there that the replica did not create."""


class AuthReplica:
    """One replica with the development accounts, and stubs of its services.

    environ: further settings, e.g. CREDMESH_TOKEN_LIFETIME="4"
    """

    def __init__(
        self, environment: BenchEnvironment, *, cores: frozenset[int], environ: Mapping[str, str] | None = None
    ) -> None:
        kek = environment.folder / "kek"
        if not kek.exists():
            generate_kek(kek)
        self.settings = environment.etcd.settings(PREFIX)
        secrets = environment.folder / "client-secrets.json"
        if not secrets.exists():
            with EtcdClient(self.settings) as client:
                secrets.write_text(json.dumps(seed_development(client, Layout(PREFIX))))
        self.secrets: dict[str, str] = json.loads(secrets.read_text())
        self._log_file = environment.log_file("auth")
        self._environ = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PYTHONUNBUFFERED": "1",
            "ETCD_ENDPOINTS": environment.etcd.endpoint,
            "CREDMESH_ETCD_PREFIX": PREFIX,
            "CREDMESH_ISSUER": ISSUER,
            "CREDMESH_KEK_FILE": str(kek),
            "CREDMESH_LISTEN": "127.0.0.1:0",
            "CREDMESH_PLAINTEXT": "true",
            "CREDMESH_LOGIN_FAILURES_PER_ADDRESS": "0",
            "CREDMESH_TOKEN_LOOKUPS_PER_ADDRESS": "0",
            "CREDMESH_LOG_LEVEL": "info",
            **(environ or {}),
        }
        self.port, self.pid = self._start(cores)
        self.target = f"127.0.0.1:{self.port}"
        self._auth = channel(self.target, allow_plaintext=True)
        self.stub = auth_pb2_grpc.AuthServiceStub(self._auth)
        self._operator = Credentials(ClientSecret("operator", self.secrets["operator"]), self._auth)
        self._administered = channel(self.target, allow_plaintext=True, credentials=self._operator)
        self.keys = keys_pb2_grpc.KeyServiceStub(self._administered)
        self.nodes = nodes_pb2_grpc.NodeServiceStub(self._administered)
        self.revocation = revocation_pb2_grpc.RevocationServiceStub(self._administered)

    def _start(self, cores: frozenset[int]) -> tuple[int, int]:
        begin = self._log_file.stat().st_size if self._log_file.exists() else 0
        with self._log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                tied_to_parent([sys.executable, "-m", "authsvc"]),
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        os.sched_setaffinity(self._popen.pid, cores)
        pause = threading.Event()
        while self._popen.poll() is None:
            for line in self._log_file.read_bytes()[begin:].splitlines(keepends=True):
                if b'"auth listens"' in line and line.endswith(b"\n"):
                    return int(json.loads(line)["port"]), self._popen.pid
            pause.wait(_POLL_INTERVAL_SECONDS)
        raise BenchFailed(f"the auth service ended before it listened; see {self._log_file}")

    def login_request(self) -> auth_pb2.LoginRequest:
        """A login of alice with her password."""
        return auth_pb2.LoginRequest(password=auth_pb2.PasswordGrant(subject="alice", password="alice-password"))

    def login(self) -> auth_pb2.Credentials:
        """Signs alice in."""
        return self.stub.Login(self.login_request(), wait_for_ready=True, timeout=_LOGIN_TIMEOUT_SECONDS).credentials

    @contextmanager
    def frozen(self, max_seconds: float) -> Iterator[None]:
        """Freezes the process (SIGSTOP) within this context, for `max_seconds` at most.

        The limit lets a call that waits for the replica end, so that the context can be left.
        """
        timer = threading.Timer(max_seconds, os.kill, (self.pid, signal.SIGCONT))
        os.kill(self.pid, signal.SIGSTOP)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stops the replica (SIGTERM), so that it deregisters.

        A killed replica stays registered until its lease ends, and a rotation of the next replica would wait for it.
        """
        self._administered.close()
        self._operator.close()
        self._auth.close()
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_TIMEOUT_SECONDS)
        finally:
            self._popen.kill()
            self._popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
