"""docs/embedding.md: its files and commands work in an empty folder, with the wheel and a running mesh."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from localmesh.processes.process import Process
from tests.support.building import build, copy_tree
from tests.support.repository import REPOSITORY
from tests.support.running_mesh import RunningMesh, environment
from tests.support.waiting import free_port, wait_until

PAGE = (REPOSITORY / "docs" / "embedding.md").read_text()
LISTENS = "127.0.0.1:7500"


def blocks(kind: str) -> dict[str, str]:
    """Returns the page's blocks of one kind, "file" or "run", by name."""
    return dict(re.findall(rf"<!-- {kind}: ([\w ./]+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


_RETRY_SECONDS = 20.0

KEPT_AND_DROPPED = re.compile(r"kept ([1-9])\ndropped \1\n")
"""All kept notes are dropped. There is one, unless an earlier attempt kept another."""


class Reader:
    """A reader who follows the page in an empty folder."""

    def __init__(self, folder: Path, installed: Path, mesh: RunningMesh) -> None:
        self.folder = folder
        self.environment = environment(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # In place of `pip install`, which needs the network.
            PYTHONPATH=str(installed),
            CREDMESH=str(mesh.folder.parent),
        )
        self._address = f"127.0.0.1:{free_port()}"
        for name, text in blocks("file").items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text.replace(LISTENS, self._address))

    def run(self, name: str) -> str:
        """Runs a block of the page; returns its output. Repeats it, for some seconds, if its error says to retry.

        On a busy machine etcd may answer more slowly than a strict method allows.
        """
        deadline = time.monotonic() + _RETRY_SECONDS
        done = self._run(name)
        while done.returncode != 0 and "; retry" in done.stderr and time.monotonic() < deadline:
            done = self._run(name)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _run(self, name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-e", "-c", blocks("run")[name]],  # noqa: S607
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def serving(self, name: str) -> Iterator[None]:
        """Runs the server that a block of the page starts."""
        # `exec` replaces the shell, so that the signal that stops the server does not reach only the shell.
        command = f"cd {self.folder}\n" + re.sub(r"(?m)^python ", "exec python ", blocks("run")[name])
        log_file = self.folder / f"{name}.log"
        process = Process(
            ["sh", "-e", "-c", command.replace(LISTENS, self._address)], environment=self.environment, log_file=log_file
        )
        process.start()
        try:
            wait_until(lambda: "notes listens" in log_file.read_text() or not process.alive, 30, "the server listens")
            assert process.alive, log_file.read_text()
            yield
        finally:
            process.terminate()
            assert process.wait(20)
        assert process.exit_code == 0, log_file.read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel is unpacked."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(build(copy_tree(folder / "tree"), "wheel")) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_the_page_leads_to_a_service_that_knows_its_caller(mesh: RunningMesh, installed: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path, installed, mesh)
    reader.run("generate")
    with reader.serving("serve"):
        reader.run("accounts")
        output = reader.run("call")
        assert KEPT_AND_DROPPED.match(output), output
        assert re.search(r"(?m)^notes-\S+ +notes ", output), "the receipt lists the service"
        with pytest.raises(AssertionError, match="UNAUTHENTICATED"):
            reader.run("call opaque")
    reader.run("client")
    with reader.serving("serve opaque"):
        assert KEPT_AND_DROPPED.fullmatch(reader.run("call opaque"))


def test_every_block_of_the_page_is_run() -> None:
    """Except the block that installs, which needs the network."""
    fences = re.findall(r"(?m)^```(\w+)$", PAGE)
    assert len(fences) == len(blocks("file")) + len(blocks("run")) + 1
