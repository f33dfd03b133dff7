"""Replicas of the auth service as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import grpc

from authsvc.accounts.bootstrap import seed_development
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.certs import Certificates
from localmesh.processes.process import tied_to_parent
from tests.support.waiting import free_port, wait_until

__all__ = ["ISSUER", "KEK", "AuthProcess", "seed"]

ISSUER: Final = "https://auth.test"
KEK: Final = "dGVzdHMgb25seTogbmV2ZXIgdXNlIHRoaXMga2V5ISE="
"""The key-encryption key of every replica in a test, so that they open each other's signing keys."""

_START_TIMEOUT: Final = 30.0
_STOP_TIMEOUT: Final = 20.0


class AuthProcess:
    """One replica: a process `python -m authsvc`, which ends with this process at the latest.

    etcd      the settings of its etcd
    tls       certificates to serve TLS with, such as from localmesh.certs; None for plaintext
    environ   further variables, such as CREDMESH_TOKEN_LIFETIME="2", which override those set here

    Its ports are read from its log, and a restarted replica uses the same ports.
    Use it as a context manager, or call start() and stop().
    """

    def __init__(
        self,
        etcd: EtcdSettings,
        *,
        tls: Certificates | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._tls = tls
        self._environ = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PYTHONUNBUFFERED": "1",
            "ETCD_ENDPOINTS": ",".join(etcd.endpoints),
            "CREDMESH_ETCD_PREFIX": etcd.prefix,
            "CREDMESH_ISSUER": ISSUER,
            "CREDMESH_KEK": KEK,
            # Not a port from the kernel's range: while the replica is down, another connection could get it.
            "CREDMESH_LISTEN": f"127.0.0.1:{free_port()}",
            "CREDMESH_HTTP_LISTEN": f"127.0.0.1:{free_port()}",
            "CREDMESH_DRAIN": "2",
            # All logins of a test suite come from one address.
            "CREDMESH_LOGIN_FAILURES_PER_ADDRESS": "0",
            "CREDMESH_TOKEN_LOOKUPS_PER_ADDRESS": "0",
            **({"CREDMESH_PLAINTEXT": "true"} if tls is None else {}),
            **(_tls_environ(tls) if tls is not None else {}),
            **(environ or {}),
        }
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[str] = []
        self._port = 0
        self._http_port = 0

    @property
    def target(self) -> str:
        """host:port of its gRPC server."""
        return f"127.0.0.1:{self._port}"

    @property
    def http_url(self) -> str:
        """The URL of its HTTP server, without a slash at the end."""
        return f"http://127.0.0.1:{self._http_port}"

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None, "the replica was never started"
        return self._process.pid

    @property
    def output(self) -> str:
        """Its stderr since it was first started."""
        return "\n".join(self._lines)

    def log(self, **members: object) -> list[dict[str, Any]]:
        """The lines of its log since it was first started that have all of these members, in order."""
        return [line for line in map(_parsed, list(self._lines)) if line and members.items() <= line.items()]

    def start(self, *, wait: bool = True) -> Self:
        """Starts it, and waits until it listens unless `wait` is False."""
        assert not self.alive, "the replica runs already"
        before = len(self.log(message="auth listens"))
        if self._port:
            self._environ["CREDMESH_LISTEN"] = self.target
            self._environ["CREDMESH_HTTP_LISTEN"] = f"127.0.0.1:{self._http_port}"
        self._process = subprocess.Popen(
            tied_to_parent([sys.executable, "-m", "authsvc"]),
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        if wait:
            self.wait_for(lambda: len(self.log(message="auth listens")) > before, "it listens")
            self._port = int(self.log(message="auth listens")[-1]["port"])
            http = self.log(message="the HTTP server listens")
            self._http_port = int(http[-1]["port"]) if http else 0
        return self

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Waits for a condition. Fails with the replica's log if the replica ends instead."""

        def done() -> bool:
            if condition():
                return True
            assert self.alive, f"the auth service ended while waiting until {what}:\n{self._drained()}"
            return False

        wait_until(done, timeout=_START_TIMEOUT, what=what)

    def wait(self) -> int:
        """Waits until it ends by itself, and returns its exit code."""
        assert self._process is not None, "the replica was never started"
        code = self._process.wait(_START_TIMEOUT)
        self._drained()
        return code

    def stop(self) -> int:
        """Asks it to end (SIGTERM), waits, and returns its exit code. No error if it has ended."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            code = self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._drained()
        return code

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL). No error if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._drained()

    def channel(self) -> grpc.Channel:
        """A channel to it, without a credential. The caller closes it."""
        if self._tls is None:
            return grpc.insecure_channel(self.target)
        credentials = grpc.ssl_channel_credentials(self._tls.ca_file.read_bytes())
        return grpc.secure_channel(self.target, credentials)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill() if kind is not None else self.stop()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                self._lines.append(line.rstrip("\n"))

    def _drained(self) -> str:
        if self._reader is not None:
            self._reader.join(timeout=5)
        return self.output


def seed(etcd: EtcdSettings) -> dict[str, str]:
    """Creates the development accounts (alice, bob, operator, services). Returns the clients' secrets by client id."""
    with EtcdClient(etcd) as client:
        return seed_development(client, Layout(etcd.prefix))


def _tls_environ(tls: Certificates) -> dict[str, str]:
    return {"CREDMESH_TLS_CERT_FILE": str(tls.cert_file), "CREDMESH_TLS_KEY_FILE": str(tls.key_file)}


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
