"""Protected servers, each in its own process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from credmesh.samples.inventory.v1.inventory_pb2_grpc import InventoryServiceStub
from interceptors.etcd.client import EtcdClient
from interceptors.settings import EtcdSettings
from localmesh.processes.process import Process
from tests.support.probe.issuer import ISSUER, Issuer
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_until


class ServedProcess:
    """A waiting_server process. Its log is read from a file."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def lines(self) -> list[dict[str, Any]]:
        """Returns its log so far, without lines that are not JSON: libraries write some."""
        return [line for line in map(_parsed, self.process.log_file.read_text().splitlines()) if line]

    def logged_port(self) -> int:
        """Returns the port that it listens on; 0 if it does not listen yet."""
        return next((int(line["port"]) for line in self.lines() if line["message"].endswith("listens")), 0)

    @property
    def port(self) -> int:
        """The port that it listens on. Waits until it listens."""
        return wait_until(lambda: self.logged_port() or (-1 if not self.process.alive else 0), 30, "it listens")

    def channel(self) -> grpc.Channel:
        """Opens a plaintext channel to it."""
        return grpc.insecure_channel(f"127.0.0.1:{self.port}")

    def stub(self) -> InventoryServiceStub:
        """Opens a channel to its service."""
        return InventoryServiceStub(self.channel())

    def said(self, text: str) -> bool:
        """Whether its log contains the text."""
        return text in self.process.log_file.read_text()


Launch = Callable[..., ServedProcess]


@pytest.fixture
def issuer(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> Issuer:
    """Signs tokens, and writes the etcd records that the auth service would write."""
    return Issuer(etcd_client, etcd_settings.prefix)


@pytest.fixture
def bearer(issuer: Issuer) -> tuple[tuple[str, str], ...]:
    """Metadata with a valid token."""
    return (("authorization", f"Bearer {issuer.token(aud=['inventory'], scope='shop.read shop.buy')}"),)


@pytest.fixture
def launch(etcd_settings: EtcdSettings, tmp_path: Path) -> Iterator[Launch]:
    """Starts servers, for example launch("sync", CREDMESH_DRAIN="1"). They end with the test."""
    with ExitStack() as stack:

        def start(kind: str, **environ: str) -> ServedProcess:
            process = Process(
                [sys.executable, "-m", "tests.interceptors.serving.waiting_server", kind],
                environment={
                    **{name: value for name, value in os.environ.items() if not name.startswith("CREDMESH_")},
                    "ETCD_ENDPOINTS": ",".join(etcd_settings.endpoints),
                    "CREDMESH_ETCD_PREFIX": etcd_settings.prefix,
                    "CREDMESH_ISSUER": ISSUER,
                    "CREDMESH_SERVICE": "inventory",
                    "CREDMESH_LISTEN": "127.0.0.1:0",
                    "CREDMESH_PLAINTEXT": "true",
                    "CREDMESH_DRAIN": "20",
                    "PYTHONPATH": str(REPOSITORY),
                    **environ,
                },
                log_file=tmp_path / f"{len(list(tmp_path.glob('*.log')))}.log",
            )
            process.start()
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            return ServedProcess(process)

        yield start


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
