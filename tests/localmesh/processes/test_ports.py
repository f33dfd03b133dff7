"""A port that was given out is nobody else's, also while whoever has it is down."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from localmesh.errors import LocalMeshError
from localmesh.processes import ports
from localmesh.processes.ports import free_port, is_free
from tests.support.repository import REPOSITORY

_ASKING = """
import sys
from localmesh import ports
from localmesh.errors import LocalMeshError
ports._PORTS = range(*map(int, sys.argv[1:3]))
ports._TRIES = len(ports._PORTS)
found = []
try:
    for _ in ports._PORTS:
        found.append(ports.free_port())
except LocalMeshError:
    pass
print(*found, flush=True)
sys.stdin.read()
"""


def ask(*, first: int, after: int) -> subprocess.Popen[str]:
    """A process that takes all ports of a range that it can have, says which, and lives until its stdin is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", _ASKING, str(first), str(after)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> set[int]:
    assert process.stdout is not None
    return set(map(int, process.stdout.readline().split()))


def test_nobody_is_given_a_port_that_somebody_has_and_everybody_once_he_is_gone() -> None:
    # Ports that no other test is given.
    first, after = 9_700, 9_800
    with ask(first=first, after=after) as one:
        mine = said(one)
        assert mine
        with ask(first=first, after=after) as other:
            assert not said(other) & mine
        one.kill()
    with ask(first=first, after=after) as third:
        assert said(third) & mine


def test_a_process_is_not_given_a_port_twice() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: free_port(), range(64)))
    assert len(set(found)) == 64
    assert all(map(is_free, found))


def test_when_there_is_none_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_PORTS", range(9_600, 9_600))
    monkeypatch.setattr(ports, "_TRIES", 0)
    with pytest.raises(LocalMeshError, match="no free port"):
        free_port()
