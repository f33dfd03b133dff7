"""A mesh with one auth replica and probes, all of them real processes, on an etcd that the test may stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.keys import audited, keys
from tests.support.people import People, populate
from tests.support.probe import schema
from tests.support.probe.process import ProbeProcess
from tests.support.processes import AuthProcess
from tests.support.running_mesh import mesh

__all__ = ["BOUND", "audited", "keys", "mesh"]

schema.load()

BOUND = 3.0
"""The longest freshness of these meshes, in seconds."""

AUTH_ENVIRON = {"CREDMESH_LONGEST_FRESHNESS": f"{BOUND:g}", "CREDMESH_ETCD_TIMEOUT": "1", "CREDMESH_NODE_LEASE": "5"}
"""The settings of a replica of these meshes."""


@pytest.fixture
def own_settings(own_etcd: EtcdProcess) -> EtcdSettings:
    """The settings of the etcd that the test may stop, with a short timeout."""
    return replace(own_etcd.settings(), timeout=1.0)


@pytest.fixture
def secrets(own_settings: EtcdSettings) -> dict[str, str]:
    """Creates the accounts of the mesh, and returns the clients' secrets."""
    return populate(own_settings)


@pytest.fixture
def auth(own_settings: EtcdSettings, secrets: dict[str, str]) -> Iterator[AuthProcess]:
    """The replica."""
    with AuthProcess(own_settings, environ=AUTH_ENVIRON) as replica:
        yield replica


@pytest.fixture
def people(auth: AuthProcess, secrets: dict[str, str]) -> Iterator[People]:
    """The callers of the replica."""
    with auth.channel() as channel:
        yield People(channel, secrets)


@pytest.fixture
def probe(own_settings: EtcdSettings) -> Iterator[Callable[..., ProbeProcess]]:
    """A function that starts a probe."""
    with ExitStack() as stack:

        def start(kind: str = "sync", **options: Any) -> ProbeProcess:
            process: ProbeProcess = stack.enter_context(ProbeProcess(own_settings, kind, **options))
            return process

        yield start
