"""Fixtures for all tests: a real etcd that a worker's tests share, an etcd for one test, and a shared mesh."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.running_mesh import RunningMesh

# An example takes longer than hypothesis's default of 200 ms when the machine is busy.
hypothesis.settings.register_profile("busy-machine", deadline=None)
hypothesis.settings.load_profile("busy-machine")


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """One etcd for all tests of this worker. A test that stops etcd uses `own_etcd`."""
    with EtcdProcess(tmp_path_factory.mktemp("etcd") / "data", unsafe_no_fsync=True) as process:
        yield process


@pytest.fixture
def etcd_settings(etcd: EtcdProcess) -> EtcdSettings:
    """The settings of the shared etcd, with a prefix that no other test uses."""
    return etcd.settings(f"/{uuid.uuid4().hex}/")


@pytest.fixture
def etcd_client(etcd_settings: EtcdSettings) -> Iterator[EtcdClient]:
    """A client of the shared etcd."""
    with EtcdClient(etcd_settings) as client:
        yield client


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    """An etcd for one test, which may stop, kill, start and compact it."""
    with EtcdProcess(tmp_path / "etcd", unsafe_no_fsync=True) as process:
        yield process


@pytest.fixture
def layout(etcd_settings: EtcdSettings) -> Layout:
    """The etcd keys of this test's mesh."""
    return Layout(etcd_settings.prefix)


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh that is up, shared by the tests of this worker. A test that stops parts starts its own RunningMesh."""
    with RunningMesh(tmp_path_factory.mktemp("mesh") / ".mesh") as running:
        yield running
