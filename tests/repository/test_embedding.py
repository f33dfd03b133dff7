"""docs/embedding.md, followed word by word in an empty folder, on what a wheel holds and a mesh that is up."""

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
    """The page's blocks of one kind, "file" or "run", by what they are called."""
    found = re.findall(rf"<!-- {kind}: ([\w ./]+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    return dict(found)


_PATIENCE = 20.0

KEPT_AND_DROPPED = re.compile(r"kept ([1-9])\ndropped \1\n")
"""All that was kept is dropped. It is one note, unless a try before had kept another."""


class Reader:
    """Somebody who does what the page says, in a folder of his own."""

    def __init__(self, folder: Path, installed: Path, mesh: RunningMesh) -> None:
        self.folder = folder
        self.environment = environment(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # In place of `pip install`, which asks the network for what is here already.
            PYTHONPATH=str(installed),
            CREDMESH=str(mesh.folder.parent),
        )
        self._address = f"127.0.0.1:{free_port()}"
        for name, text in blocks("file").items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text.replace(LISTENS, self._address))

    def run(self, name: str) -> str:
        """Runs a block of the page; what it printed. As often as it is told to try again, for some time.

        On a busy machine etcd may take longer to answer than a strict method waits for it.
        """
        deadline = time.monotonic() + _PATIENCE
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
    def serving(self, script: str) -> Iterator[None]:
        """The server, as the page starts it, until the end of the block."""
        # The shell makes way for it, so that the signal which stops it does not end at the shell.
        command = blocks("run")["serve"].replace("python server.py", f"cd {self.folder}\nexec python {script}")
        log_file = self.folder / f"{script}.log"
        process = Process(
            ["sh", "-e", "-c", command.replace(LISTENS, self._address)], environment=self.environment, log_file=log_file
        )
        process.start()
        try:
            wait_until(
                lambda: "notes listens" in log_file.read_text() or not process.alive, 30, "the page's server listens"
            )
            assert process.alive, log_file.read_text()
            yield
        finally:
            process.terminate()
            assert process.wait(20)
        assert process.exit_code == 0, log_file.read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip unpacks of a wheel."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(build(copy_tree(folder / "tree"), "wheel")) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_the_page_leads_to_a_service_that_knows_its_caller(mesh: RunningMesh, installed: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path, installed, mesh)
    reader.run("generate")
    with reader.serving("server.py"):
        reader.run("accounts")
        said = reader.run("call")
        assert KEPT_AND_DROPPED.match(said), said
        assert re.search(r"(?m)^notes-\S+ +notes ", said), "the receipt lists the service"
        with pytest.raises(AssertionError, match="UNAUTHENTICATED"):
            reader.run("call opaque")
    reader.run("client")
    with reader.serving("server_opaque.py"):
        assert KEPT_AND_DROPPED.fullmatch(reader.run("call opaque"))


def test_no_block_of_the_page_is_left_out() -> None:
    """All but the one that installs, which needs the network."""
    fences = re.findall(r"(?m)^```(\w+)$", PAGE)
    assert len(fences) == len(blocks("file")) + len(blocks("run")) + 1
