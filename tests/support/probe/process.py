"""A probe in a process of its own, which a test may freeze, kill and cut off: `python -m tests.support.probe.process
KIND`.

It is told the rest by its environment, as any node is, and says on its standard output where it listens.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from interceptors.settings import EtcdSettings
from localmesh.processes.process import leashed
from tests.support.processes import ISSUER
from tests.support.repository import REPOSITORY

__all__ = ["ProbeProcess"]


class ProbeProcess:
    """A node that serves the probe. `kind` is one of tests.support.probe.servers.SERVERS; `environ` are further
    variables.

    auth, client_id, client_secret_file: whom to ask about opaque sessions, and as whom. Use it as a context manager.
    """

    def __init__(
        self, etcd: EtcdSettings, kind: str = "sync", *, auth: str = "", environ: Mapping[str, str] | None = None
    ) -> None:
        self._kind = kind
        self._environ = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(REPOSITORY),
            "ETCD_ENDPOINTS": ",".join(etcd.endpoints),
            "CREDMESH_ETCD_PREFIX": etcd.prefix,
            "CREDMESH_ETCD_TIMEOUT": f"{etcd.timeout:g}",
            "CREDMESH_ISSUER": ISSUER,
            "CREDMESH_SERVICE": "probe",
            "CREDMESH_LONGEST_FRESHNESS": "3",
            **({"PROBE_AUTH": auth} if auth else {}),
            **(environ or {}),
        }
        self._process: subprocess.Popen[str] | None = None
        self._frozen = False
        self.node_id = ""
        self.target = ""

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None, "the probe was never started"
        return self._process.pid

    def start(self) -> Self:
        """Starts it and waits until it serves."""
        self._process = subprocess.Popen(
            leashed([sys.executable, "-m", "tests.support.probe.process", self._kind]),
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the probe ended with {self._process.wait()}"
        said = json.loads(line)
        self.node_id, self.target = said["node_id"], said["target"]
        return self

    def freeze(self) -> None:
        """Stops it where it stands (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Lets it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    def stop(self) -> None:
        """Asks it to end (SIGTERM) and waits; it leaves the mesh in order."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def kill(self) -> None:
        """Ends it as a crash would. Fine if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            if self._process.stdout is not None:
                self._process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


def main() -> None:
    """Serves the probe until it is told to stop."""
    from contextlib import ExitStack

    import grpc

    from interceptors import GrpcSessionResolver, MeshNode, MeshSettings, read_settings
    from interceptors.client import ClientSecret, Credentials, channel
    from tests.support.probe import schema
    from tests.support.probe.servers import ProbeServer

    schema.load()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with ExitStack() as stack:
        resolver = None
        if auth := os.environ.get("PROBE_AUTH"):
            secret = ClientSecret("services", os.environ["PROBE_SECRET"], audiences=("credmesh.auth",))
            anonymous: grpc.Channel = stack.enter_context(channel(auth, allow_plaintext=True))
            credentials = stack.enter_context(Credentials(secret, anonymous))
            resolver = GrpcSessionResolver(
                stack.enter_context(channel(auth, allow_plaintext=True, credentials=credentials))
            )
        node = stack.enter_context(MeshNode(read_settings(MeshSettings), resolver=resolver))
        server = stack.enter_context(ProbeServer(node, sys.argv[1]))
        print(json.dumps({"node_id": node.id, "target": server.target}), flush=True)
        while not stopped.wait(0.2):
            pass


if __name__ == "__main__":
    main()
