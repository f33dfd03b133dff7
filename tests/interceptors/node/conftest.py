"""Nodes on a separate etcd, which a test may stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from interceptors import EtcdSettings, MeshNode, MeshSettings
from interceptors.etcd.client import EtcdClient
from localmesh.etcd.process import EtcdProcess
from tests.support.probe import schema
from tests.support.probe.issuer import ISSUER, Issuer

schema.load()

PREFIX = "/credmesh/"


@pytest.fixture
def own_settings(own_etcd: EtcdProcess) -> EtcdSettings:
    """How to reach the etcd that the test may stop; with a short timeout."""
    return replace(own_etcd.settings(PREFIX), timeout=1.0)


@pytest.fixture
def own_issuer(own_settings: EtcdSettings) -> Iterator[Issuer]:
    """Writes to that etcd as the auth service does."""
    with EtcdClient(own_settings) as client:
        yield Issuer(client, PREFIX)


@pytest.fixture
def own_node(own_settings: EtcdSettings, own_issuer: Issuer) -> Iterator[MeshNode]:
    """A node of that etcd."""
    with MeshNode(MeshSettings(etcd=own_settings, service="probe", issuer=ISSUER, node_lease=2)) as node:
        yield node
