"""Fixtures for all tests: a real etcd, shared by a worker's tests under prefixes of their own, or one to be killed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.running_mesh import RunningMesh


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """One etcd for all tests of this worker. Do not stop it: take `own_etcd` for that."""
    with EtcdProcess(tmp_path_factory.mktemp("etcd") / "data", unsafe_no_fsync=True) as process:
        yield process


@pytest.fixture
def etcd_settings(etcd: EtcdProcess) -> EtcdSettings:
    """How to reach the shared etcd, under a prefix that no other test uses."""
    return etcd.settings(f"/{uuid.uuid4().hex}/")


@pytest.fixture
def etcd_client(etcd_settings: EtcdSettings) -> Iterator[EtcdClient]:
    """A client of the shared etcd."""
    with EtcdClient(etcd_settings) as client:
        yield client


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    """An etcd for this test alone, which it may stop, kill, start and compact."""
    with EtcdProcess(tmp_path / "etcd", unsafe_no_fsync=True) as process:
        yield process


@pytest.fixture
def layout(etcd_settings: EtcdSettings) -> Layout:
    """The etcd keys of this test's mesh."""
    return Layout(etcd_settings.prefix)


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh that is up. Do not stop it or its parts: start a RunningMesh for that."""
    with RunningMesh(tmp_path_factory.mktemp("mesh") / ".mesh") as running:
        yield running
