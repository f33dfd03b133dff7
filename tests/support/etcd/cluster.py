"""A cluster of three etcd members."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from localmesh.etcd.process import EtcdProcess
from tests.support.waiting import free_port


@contextmanager
def cluster(folder: Path) -> Iterator[list[EtcdProcess]]:
    """Runs three members. A test may kill them and start them again."""
    peers = {f"member{number}": f"http://127.0.0.1:{free_port()}" for number in range(3)}
    initial_cluster = ",".join(f"{name}={url}" for name, url in peers.items())
    members = [
        EtcdProcess(
            folder / name,
            unsafe_no_fsync=True,
            arguments=[
                f"--name={name}",
                f"--listen-peer-urls={url}",
                f"--initial-advertise-peer-urls={url}",
                f"--initial-cluster={initial_cluster}",
                "--heartbeat-interval=100",
                "--election-timeout=1000",
            ],
        )
        for name, url in peers.items()
    ]
    try:
        # In parallel, since no member answers before it has reached another.
        with ThreadPoolExecutor() as threads:
            list(threads.map(EtcdProcess.start, members))
        yield members
    finally:
        for member in members:
            member.kill()
