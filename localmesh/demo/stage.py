"""The mesh that the story plays on: one that is up, or one that is made for it and taken down afterwards."""

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
from localmesh.control import ask, is_up
from localmesh.errors import LocalMeshError
from localmesh.parts import TLS_OF_ETCD
from localmesh.processes.process import Process, last_lines

__all__ = ["Stage", "set_stage"]

_OWN_FOLDER: Final = Path("build/demo-mesh")
_UP_WITHIN: Final = 60.0
_PREFIX: Final = "CREDMESH_ETCD_PREFIX"


@dataclass(frozen=True, slots=True)
class Stage:
    """A mesh that is up.

    up_seconds     how long it took to come up
    embedded_etcd  whether its etcd may be stopped
    own            whether it was made for the story
    """

    folder: Path
    profile: Mapping[str, Any]
    up_seconds: float
    embedded_etcd: bool
    own: bool

    @property
    def ca_file(self) -> Path:
        """Who signed the servers' certificates."""
        return Path(self.profile["ca_file"])

    def etcd_settings(self) -> EtcdSettings:
        """How to reach the mesh's etcd."""
        known = {name: self.profile[name.lower()] for name in TLS_OF_ETCD if name.lower() in self.profile}
        known |= {"ETCD_ENDPOINTS": self.profile["etcd"], _PREFIX: self.profile["etcd_prefix"]}
        return read_settings(EtcdSettings, known)

    async def take_down(self, part: str, *, kill: bool, seconds: float) -> None:
        """Kills or stops a part; it is started again after `seconds`, or by `bring_back`."""
        await asyncio.to_thread(ask, self.folder, do="hold", part=part, kill=kill, seconds=seconds)

    async def bring_back(self, part: str) -> None:
        """Starts a part again, and returns when it answers."""
        await asyncio.to_thread(ask, self.folder, do="resume", part=part)
        async with asyncio.timeout(_UP_WITHIN):
            while await self._state(part) != "up":  # noqa: ASYNC110 - another process is waited for
                await asyncio.sleep(0.02)

    async def _state(self, part: str) -> str:
        parts = (await asyncio.to_thread(ask, self.folder, do="status"))["parts"]
        return next(str(one["state"]) for one in parts if one["name"] == part)


@contextmanager
def set_stage(folder: Path) -> Iterator[Stage]:
    """The mesh in this folder if it is up, else one of the story's own. LocalMeshError if it does not come up."""
    if is_up(folder):
        yield _stage(folder, own=False)
        return
    own = _OWN_FOLDER.absolute()
    shutil.rmtree(own, ignore_errors=True)
    environment = dict(os.environ)
    if environment.get("ETCD_ENDPOINTS", "").strip():
        # What is in somebody's etcd already has secrets that are not here: begin elsewhere.
        environment[_PREFIX] = f"/credmesh-demo-{secrets.token_hex(4)}/"
    log_file = own.with_name("demo-mesh.log")
    log_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "localmesh", "--folder", str(own), "up", "--any-ports"]
    process = Process(command, environment=environment, log_file=log_file)
    process.start()
    try:
        _wait_until_up(own, process)
        stage = _stage(own, own=True)
        yield stage
    finally:
        process.terminate()
        if not process.wait(30):
            process.kill()
            process.wait(10)
    if _PREFIX in environment and environment[_PREFIX] != os.environ.get(_PREFIX):
        with EtcdClient(stage.etcd_settings()) as etcd:
            etcd.commit([], [Delete(environment[_PREFIX], prefix=True)])
    shutil.rmtree(own, ignore_errors=True)


def _wait_until_up(folder: Path, process: Process) -> None:
    deadline = time.monotonic() + _UP_WITHIN
    while True:
        try:
            if ask(folder, do="status")["up"]:
                return
        except LocalMeshError:
            pass  # its socket is not there yet
        if not process.alive or time.monotonic() > deadline:
            lines = "\n  ".join(last_lines(process.log_file, 20))
            raise LocalMeshError(f"the demo's mesh did not come up; it says:\n  {lines}")
        time.sleep(0.02)


def _stage(folder: Path, *, own: bool) -> Stage:
    status = ask(folder, do="status")
    if not status["up"]:
        raise LocalMeshError(f"the mesh in {folder} is still starting; try again when it is up")
    profile = json.loads(Path(status["profile"]).read_text())
    return Stage(folder, profile, float(status["up_seconds"]), bool(status["embedded_etcd"]), own)
