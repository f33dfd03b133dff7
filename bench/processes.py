"""Processes of the benchmark: programs of bench/workers, and servers under test."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.environment import ISSUER, PREFIX, BenchEnvironment, BenchFailed
from bench.machine import SERVING_CORES, cpu_seconds
from localmesh.processes.process import tied_to_parent

__all__ = ["ServerKind", "ServerUnderTest", "WorkerProcess"]

_FINISH_TIMEOUT_SECONDS: Final = 30.0


class WorkerProcess:
    """A program of bench/workers in its own process. Both sides send one line of JSON for each message.

    It dies with this process at the latest. `first_message` is the message by which it says that it is ready.

    wait_until_ready  False to return before that; call `wait_until_ready` later
    """

    def __init__(
        self, module: str, settings: object, *, cores: frozenset[int], log_file: Path, wait_until_ready: bool = True
    ) -> None:
        self._module = module
        self._log_file = log_file
        command = tied_to_parent([sys.executable, "-m", module, json.dumps(sorted(cores)), json.dumps(settings)])
        with log_file.open("ab") as log:
            self._popen = subprocess.Popen(  # our own command
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.pid = self._popen.pid
        self.first_message: dict[str, object] = {}
        if wait_until_ready:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Waits for the first message."""
        self.first_message = self.receive()

    def receive(self) -> dict[str, object]:
        """Waits for the next message. BenchFailed if the process has ended."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise BenchFailed(f"python -m {self._module} ended before it answered; see {self._log_file}")
        message: dict[str, object] = json.loads(line)
        return message

    def send(self, message: object) -> None:
        """Sends a message."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(message) + "\n")
        self._popen.stdin.flush()

    def finish(self) -> None:
        """Closes the process's input, so that it ends by itself, and waits for that."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        try:
            self._popen.wait(_FINISH_TIMEOUT_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills the process (SIGKILL)."""
        self._popen.kill()
        self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                stream.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKind:
    """One of the servers that are compared.

    aio          grpc.aio.server instead of grpc.server
    interceptor  what verifies the calls: "none", "credmesh", "handwritten" (PyJWT) or "introspection"
    tls          whether it serves TLS
    threads      the threads of a grpc.server
    """

    aio: bool
    interceptor: str = "none"
    tls: bool = False
    threads: int = 32

    @property
    def name(self) -> str:
        """The name, for messages."""
        kind = "aio" if self.aio else "sync"
        return f"{kind} server, interceptor {self.interceptor}{', TLS' if self.tls else ''}"


class ServerUnderTest:
    """A server in its own process, on the serving core. See bench/workers/server.py.

    prefix         the etcd prefix of the mesh whose tokens it accepts, if that is not the environment's own
    auth           with interceptor "introspection": the address of the auth service
    client_secret  with interceptor "introspection": the secret of the client "services"
    """

    def __init__(
        self,
        kind: ServerKind,
        environment: BenchEnvironment,
        *,
        prefix: str | None = None,
        auth: str = "",
        client_secret: str = "",
        cores: frozenset[int] = SERVING_CORES,
    ) -> None:
        self.kind = kind
        certificates = environment.certificates if kind.tls else None
        self.ca_file = None if certificates is None else certificates.ca_file
        settings = {
            **asdict(kind),
            "etcd": environment.etcd.endpoint,
            "prefix": prefix or PREFIX,
            "issuer": ISSUER,
            "public_key": environment.tokens.public_der.hex(),
            "cert_file": "" if certificates is None else str(certificates.cert_file),
            "key_file": "" if certificates is None else str(certificates.key_file),
            "auth": auth,
            "client_secret": client_secret,
        }
        log_file = environment.log_file("servers")
        self._process = WorkerProcess("bench.workers.server", settings, cores=cores, log_file=log_file)
        self.pids = [self._process.pid]
        self.port = int(str(self._process.first_message["port"]))

    def cpu_seconds(self) -> float:
        """The CPU seconds so far of all processes that serve a call."""
        return sum(map(cpu_seconds, self.pids))

    def kill(self) -> None:
        """Kills the server; it has no state that a shutdown would save."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
