"""Fixtures of the contract suite: one node per test, and servers and clients of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from interceptors import EtcdSettings, MeshNode, MeshSettings
from interceptors.etcd.client import EtcdClient
from tests.support.probe import schema
from tests.support.probe.clients import CLIENTS, Client, make_client
from tests.support.probe.issuer import ISSUER, Issuer
from tests.support.probe.servers import SERVERS, ProbeServer

schema.load()

NewNode = Callable[..., MeshNode]


@pytest.fixture
def issuer(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> Issuer:
    """Signs tokens, and writes the etcd records that the auth service would write."""
    return Issuer(etcd_client, etcd_settings.prefix)


@pytest.fixture
def new_node(etcd_settings: EtcdSettings, issuer: Issuer) -> Iterator[NewNode]:
    """Starts nodes, with settings that may be changed by keyword."""
    with ExitStack() as stack:

        def start(**changes: object) -> MeshNode:
            settings = MeshSettings(etcd=etcd_settings, service="probe", issuer=ISSUER, **{"leeway": 0.0, **changes})  # type: ignore[arg-type]
            return stack.enter_context(MeshNode(settings))

        yield start


@pytest.fixture
def node(new_node: NewNode) -> MeshNode:
    """A node that is ready."""
    return new_node()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, node: MeshNode) -> Iterator[ProbeServer]:
    """A probe behind the interceptor, on every kind of server."""
    with ProbeServer(node, request.param) as server:
        yield server


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, server: ProbeServer) -> Iterator[Client]:
    """A client of every kind."""
    with make_client(request.param, server.target) as client:
        yield client
