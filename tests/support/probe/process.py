"""A probe in a separate process, which a test may freeze and kill: `python -m tests.support.probe.process KIND`.

It reads its settings from the environment, as any node does, and prints its address.
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
from localmesh.processes.process import tied_to_parent
from tests.support.processes import ISSUER
from tests.support.repository import REPOSITORY

__all__ = ["ProbeProcess"]


class ProbeProcess:
    """A node that serves the probe. Use it as a context manager.

    kind     one of tests.support.probe.servers.SERVERS
    auth     the target of the auth service that resolves opaque sessions; "" for none
    environ  further environment variables
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
        """Starts the process, and waits until it serves."""
        self._process = subprocess.Popen(
            tied_to_parent([sys.executable, "-m", "tests.support.probe.process", self._kind]),
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
        """Freezes the process (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Resumes the process (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    def stop(self) -> None:
        """Ends the process (SIGTERM), and waits until it has deregistered and ended."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def leave(self) -> None:
        """Resumes and stops the process, so that the mesh forgets its node. A process that has ended is no error."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.stop()

    def kill(self) -> None:
        """Kills the process, as a crash would. A process that has ended is no error."""
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
    """Serves the probe until SIGTERM."""
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
