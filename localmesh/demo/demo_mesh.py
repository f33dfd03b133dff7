"""The mesh that the demo runs on: the one that is up, or a temporary one."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from interceptors.etcd.client import Delete, EtcdClient
from interceptors.settings import EtcdSettings, read_settings
from localmesh.control import is_up, send_request
from localmesh.errors import LocalMeshError
from localmesh.parts import TLS_VARIABLES_OF_ETCD
from localmesh.processes.process import Process, last_lines

__all__ = ["DemoMesh", "demo_mesh"]

_TEMPORARY_FOLDER: Final = Path("build/demo-mesh")
_UP_TIMEOUT_SECONDS: Final = 60.0
_STOP_TIMEOUT_SECONDS: Final = 30.0
_KILL_TIMEOUT_SECONDS: Final = 10.0
_POLL_INTERVAL_SECONDS: Final = 0.02
_PREFIX: Final = "CREDMESH_ETCD_PREFIX"


@dataclass(frozen=True, slots=True)
class DemoMesh:
    """A mesh that is up.

    up_seconds     how long it took to come up
    embedded_etcd  whether the mesh runs its own etcd, which the demo may stop
    temporary      whether it was started for the demo
    """

    folder: Path
    profile: Mapping[str, Any]
    up_seconds: float
    embedded_etcd: bool
    temporary: bool

    @property
    def ca_file(self) -> Path:
        """The certificate authority of the servers' certificates."""
        return Path(self.profile["ca_file"])

    def etcd_settings(self) -> EtcdSettings:
        """The settings of a client of the mesh's etcd."""
        known = {name: self.profile[name.lower()] for name in TLS_VARIABLES_OF_ETCD if name.lower() in self.profile}
        known |= {"ETCD_ENDPOINTS": self.profile["etcd"], _PREFIX: self.profile["etcd_prefix"]}
        return read_settings(EtcdSettings, known)

    async def take_part_down(self, part: str, *, kill: bool, seconds: float) -> None:
        """Kills or stops a part. It is restarted after `seconds`, or earlier by `bring_part_back`."""
        await asyncio.to_thread(send_request, self.folder, do="take-down", part=part, kill=kill, seconds=seconds)

    async def bring_part_back(self, part: str) -> None:
        """Restarts a part and waits until it is up."""
        await asyncio.to_thread(send_request, self.folder, do="bring-back", part=part)
        async with asyncio.timeout(_UP_TIMEOUT_SECONDS):
            while await self._state(part) != "up":  # noqa: ASYNC110 - the state of another process
                await asyncio.sleep(_POLL_INTERVAL_SECONDS)

    async def _state(self, part: str) -> str:
        parts = (await asyncio.to_thread(send_request, self.folder, do="status"))["parts"]
        return next(str(one["state"]) for one in parts if one["name"] == part)


@contextmanager
def demo_mesh(folder: Path) -> Iterator[DemoMesh]:
    """The mesh in this folder if one is up, else a temporary mesh, which is deleted afterwards.

    LocalMeshError if the temporary mesh does not come up.
    """
    if is_up(folder):
        yield _describe(folder, temporary=False)
        return
    temporary_folder = _TEMPORARY_FOLDER.absolute()
    shutil.rmtree(temporary_folder, ignore_errors=True)
    environment = dict(os.environ)
    if environment.get("ETCD_ENDPOINTS", "").strip():
        # A mesh that already exists in that etcd has secrets that are not here, so use a new prefix.
        environment[_PREFIX] = f"/credmesh-demo-{secrets.token_hex(4)}/"
    log_file = temporary_folder.with_name("demo-mesh.log")
    log_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "localmesh", "--folder", str(temporary_folder), "up", "--any-ports"]
    process = Process(command, environment=environment, log_file=log_file)
    process.start()
    try:
        _wait_until_up(temporary_folder, process)
        mesh = _describe(temporary_folder, temporary=True)
        yield mesh
    finally:
        process.terminate()
        if not process.wait(_STOP_TIMEOUT_SECONDS):
            process.kill()
            process.wait(_KILL_TIMEOUT_SECONDS)
    if _PREFIX in environment and environment[_PREFIX] != os.environ.get(_PREFIX):
        with EtcdClient(mesh.etcd_settings()) as etcd:
            etcd.commit([], [Delete(environment[_PREFIX], prefix=True)])
    shutil.rmtree(temporary_folder, ignore_errors=True)


def _wait_until_up(folder: Path, process: Process) -> None:
    deadline = time.monotonic() + _UP_TIMEOUT_SECONDS
    while True:
        try:
            if send_request(folder, do="status")["up"]:
                return
        except LocalMeshError:
            pass  # its control socket does not exist yet
        if not process.alive or time.monotonic() > deadline:
            lines = "\n  ".join(last_lines(process.log_file, 20))
            raise LocalMeshError(f"the demo's mesh did not come up; its output ends with:\n  {lines}")
        time.sleep(_POLL_INTERVAL_SECONDS)


def _describe(folder: Path, *, temporary: bool) -> DemoMesh:
    status = send_request(folder, do="status")
    if not status["up"]:
        raise LocalMeshError(f"the mesh in {folder} is still starting; try again when it is up")
    profile = json.loads(Path(status["profile"]).read_text())
    return DemoMesh(folder, profile, float(status["up_seconds"]), bool(status["embedded_etcd"]), temporary)
