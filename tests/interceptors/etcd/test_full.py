"""An etcd that has reached its quota refuses writes at once, and accepts them again when space is freed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from interceptors.etcd.client import EtcdClient, EtcdFull, EtcdRefused, Put
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd.backups import tool


@pytest.fixture
def small(tmp_path: Path) -> Iterator[EtcdProcess]:
    """An etcd with a tiny quota."""
    with EtcdProcess(tmp_path / "etcd", unsafe_no_fsync=True, arguments=["--quota-backend-bytes=1000000"]) as process:
        yield process


def fill(client: EtcdClient) -> None:
    """Writes until etcd refuses."""
    for _ in range(1000):
        client.commit([], [Put("/fill", os.urandom(20_000))])


def test_a_full_etcd_refuses_at_once_and_the_error_says_what_to_do(small: EtcdProcess) -> None:
    with EtcdClient(small.settings()) as client:
        with pytest.raises(EtcdFull, match="compact and defragment it"):
            fill(client)
        begun = time.monotonic()
        with pytest.raises(EtcdRefused):
            client.grant(10)
        assert time.monotonic() - begun < 1  # a refused request is not repeated
        assert client.read_prefix("/fill").values
        revision = client.read_prefix("/fill").revision
        for command in (("compact", str(revision)), ("defrag",), ("alarm", "disarm")):
            tool("etcdctl", f"--endpoints={small.endpoint}", *command)
        assert client.commit([], [Put("/fill", b"")])
