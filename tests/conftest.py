"""Fixtures for all tests: a real etcd that a worker's tests share, and an etcd for one test."""

from __future__ import annotations

import gc
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess

# Without cached bytecode, every worker would rewrite the assertions of every test again, and every process that a test
# starts would compile its modules again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Importing and collecting makes objects that are never garbage. To look for garbage among them takes a quarter of the
# time, so the collector is off until the tests are collected, and leaves out what exists by then.
gc.disable()

# An example takes longer than hypothesis's default of 200 ms when the machine is busy.
hypothesis.settings.register_profile("busy-machine", deadline=None)
hypothesis.settings.load_profile("busy-machine")


def pytest_collection_finish() -> None:
    """Turns the garbage collector on."""
    gc.freeze()
    gc.enable()


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
