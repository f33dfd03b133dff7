"""Protected servers, each in its own process."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from credmesh.samples.inventory.v1.inventory_pb2_grpc import InventoryServiceStub
from interceptors.etcd.client import EtcdClient
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from localmesh.processes.process import Process
from tests.support.probe.issuer import ISSUER, Issuer
from tests.support.repository import REPOSITORY
from tests.support.waiting import free_port, wait_until


class ServedProcess:
    """A waiting_server process. Its log is read from a file.

    metrics  the address of its metrics; "" for none
    """

    def __init__(self, process: Process, metrics: str = "") -> None:
        self.process = process
        self.metrics = metrics

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


@pytest.fixture(scope="module")
def shared_etcd_settings(etcd: EtcdProcess) -> EtcdSettings:
    """The settings of the shared etcd, with a prefix that the servers of a module use."""
    return etcd.settings(f"/{uuid.uuid4().hex}/")


@pytest.fixture(scope="module")
def issuer(shared_etcd_settings: EtcdSettings) -> Iterator[Issuer]:
    """Signs tokens, and writes the etcd records that the auth service would write."""
    with EtcdClient(shared_etcd_settings) as client:
        yield Issuer(client, shared_etcd_settings.prefix)


@pytest.fixture
def bearer(issuer: Issuer) -> tuple[tuple[str, str], ...]:
    """Metadata with a valid token."""
    return (("authorization", f"Bearer {issuer.token(aud=['inventory'], scope='shop.read shop.buy')}"),)


@pytest.fixture
def launch(shared_etcd_settings: EtcdSettings, tmp_path: Path) -> Iterator[Launch]:
    """Starts servers, for example launch("sync", CREDMESH_DRAIN="1"). They end with the test."""
    with ExitStack() as stack:
        yield partial(_start, stack, shared_etcd_settings, tmp_path)


@pytest.fixture(scope="module")
def shared_server(
    shared_etcd_settings: EtcdSettings, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], ServedProcess]]:
    """Returns the server of a kind that this worker's tests share, with metrics. A test must not stop it."""
    servers: dict[str, ServedProcess] = {}
    with ExitStack() as stack:

        def get(kind: str) -> ServedProcess:
            if kind not in servers:
                folder = tmp_path_factory.mktemp(kind)
                servers[kind] = _start(
                    stack, shared_etcd_settings, folder, kind, CREDMESH_METRICS=f"127.0.0.1:{free_port()}"
                )
            return servers[kind]

        yield get


def _start(stack: ExitStack, etcd: EtcdSettings, folder: Path, kind: str, **environ: str) -> ServedProcess:
    process = Process(
        [sys.executable, "-m", "tests.interceptors.serving.waiting_server", kind],
        environment={
            **{name: value for name, value in os.environ.items() if not name.startswith("CREDMESH_")},
            "ETCD_ENDPOINTS": ",".join(etcd.endpoints),
            "CREDMESH_ETCD_PREFIX": etcd.prefix,
            "CREDMESH_ISSUER": ISSUER,
            "CREDMESH_SERVICE": "inventory",
            "CREDMESH_LISTEN": "127.0.0.1:0",
            "CREDMESH_PLAINTEXT": "true",
            "CREDMESH_DRAIN": "20",
            "PYTHONPATH": str(REPOSITORY),
            **environ,
        },
        log_file=folder / f"{len(list(folder.glob('*.log')))}.log",
    )
    process.start()
    stack.callback(process.wait, 10)
    stack.callback(process.kill)
    return ServedProcess(process, environ.get("CREDMESH_METRICS", ""))


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
