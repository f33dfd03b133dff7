"""A local mesh in its own processes, started as by `make run`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
import psutil
import pytest

from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from localmesh.control import send_request
from localmesh.errors import LocalMeshError
from localmesh.processes.process import Process
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_until

__all__ = ["PROXY", "REPOSITORY", "RunningMesh", "environment", "mesh"]

PROXY: Final = {"https_proxy": "http://127.0.0.1:9"}
"""The environment of a shell that names a proxy. This one does not answer."""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without the settings of the developer's shell, and with some changes."""
    ours = ("CREDMESH_", "ETCD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours) or name == "ETCD_BIN"}
    return kept | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "140"} | changes


class RunningMesh:
    """A `python -m localmesh up` process, by default on free ports. It dies with this process at the latest."""

    def __init__(self, folder: Path, *, environ: dict[str, str] | None = None, any_ports: bool = True) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "localmesh", "--folder", str(folder), "up"]
        self.process = Process(
            [*command, *(["--any-ports"] if any_ports else [])],
            environment=environment(**(environ or {})),
            log_file=folder.with_name(folder.name + ".out"),
        )

    @property
    def output(self) -> str:
        """The output of the process."""
        return self.process.log_file.read_text()

    @property
    def profile(self) -> dict[str, Any]:
        """The profile that the mesh has written."""
        found: dict[str, Any] = json.loads((self.folder / "profile.json").read_text())
        return found

    def start(self, *, wait: bool = True) -> Self:
        """Starts the mesh and, unless `wait` is False, waits until it is up."""
        self.process.start()
        if wait:
            wait_until(self._up_or_ended, timeout=60, what="the mesh is up")
            assert self.process.alive, f"the mesh did not come up:\n{self.output}"
        return self

    def status(self) -> dict[str, Any]:
        """The supervisor's answer to a status request."""
        return send_request(self.folder, do="status")

    def state(self, part: str) -> str:
        """The state of one part."""
        return next(str(one["state"]) for one in self.status()["parts"] if one["name"] == part)

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all processes that it has started."""
        assert self.process.pid is not None
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def part_process(self, module: str) -> psutil.Process:
        """The process of one part, found by the last word of its command line."""
        return next(one for one in self.processes() if one.cmdline()[-1] == module)

    def stop(self) -> int | None:
        """Stops the mesh (SIGTERM) and returns its exit code."""
        self.process.terminate()
        assert self.process.wait(40), self.output
        return self.process.exit_code

    def channel(self, address: str) -> grpc.Channel:
        """A channel to a part, without credentials."""
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(Path(self.profile["ca_file"]).read_bytes()))

    def sign_in(self, subject: str, **request: Any) -> auth_pb2.Credentials:
        """Signs in a user of the development accounts."""
        grant = auth_pb2.PasswordGrant(subject=subject, password=f"{subject}-password")
        with self.channel(self.profile["replicas"][0]) as channel:
            stub = auth_pb2_grpc.AuthServiceStub(channel)
            return stub.Login(auth_pb2.LoginRequest(password=grant, **request), timeout=20).credentials

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.alive:
            self.stop()

    def _up_or_ended(self) -> bool:
        if not self.process.alive:
            return True
        try:
            return bool(self.status()["up"])
        except LocalMeshError:
            return False


@pytest.fixture(scope="package")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh that is up, shared by the tests of one folder that a worker runs. The folder's conftest.py imports it.

    It ends with the folder, because an idle mesh takes a tenth of a core. A test that stops parts for good starts its
    own RunningMesh. Its environment names a proxy, which nothing on this machine may use.
    """
    with RunningMesh(tmp_path_factory.mktemp("mesh") / ".mesh", environ=PROXY) as running:
        yield running
