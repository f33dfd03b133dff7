"""A port that a process was given is reserved for it while it lives, whether or not something listens on the port."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from localmesh.errors import LocalMeshError
from localmesh.processes import ports
from localmesh.processes.ports import free_port, is_free
from tests.support.repository import REPOSITORY

_RESERVE_ALL_PORTS = """
import sys
from localmesh.processes import ports
from localmesh.errors import LocalMeshError
ports._PORTS = range(*map(int, sys.argv[1:3]))
ports._MAX_ATTEMPTS = len(ports._PORTS)
found = []
try:
    for _ in ports._PORTS:
        found.append(ports.free_port())
except LocalMeshError:
    pass
print(*found, flush=True)
sys.stdin.read()
"""


def start_process(*, first: int, after: int) -> subprocess.Popen[str]:
    """Starts a process that reserves every port of a range that it can, prints them, and ends when its stdin closes."""
    return subprocess.Popen(
        [sys.executable, "-c", _RESERVE_ALL_PORTS, str(first), str(after)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def reserved_ports(process: subprocess.Popen[str]) -> set[int]:
    assert process.stdout is not None
    return set(map(int, process.stdout.readline().split()))


def test_a_port_is_given_to_one_process_until_that_process_ends() -> None:
    # Outside of the range from which other tests are given ports; another test run on this machine has other ones.
    first = 9_000 + os.getpid() % 40 * 20
    after = first + 20
    with start_process(first=first, after=after) as one:
        mine = reserved_ports(one)
        assert mine
        with start_process(first=first, after=after) as other:
            assert not reserved_ports(other) & mine
        one.kill()
    with start_process(first=first, after=after) as third:
        assert reserved_ports(third) & mine


def test_a_process_is_not_given_a_port_twice() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: free_port(), range(64)))
    assert len(set(found)) == 64
    assert all(map(is_free, found))


def test_without_a_free_port_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_PORTS", range(9_600, 9_600))
    monkeypatch.setattr(ports, "_MAX_ATTEMPTS", 0)
    with pytest.raises(LocalMeshError, match="no free port"):
        free_port()
