"""A server whose node has not read the mesh yet, or can no longer prove its freshness."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interceptors import EtcdSettings, MeshNode, MeshSettings, Reason
from interceptors.scopes import subject_scope
from tests.support.held_calls import hold
from tests.support.probe.clients import Client, bearer
from tests.support.probe.issuer import ISSUER, Issuer
from tests.support.probe.schema import FRESH, KINDS
from tests.support.probe.servers import ProbeServer
from tests.support.waiting import wait_until


@pytest.fixture
def node(etcd_settings: EtcdSettings) -> Iterator[MeshNode]:
    """A node that the test starts itself."""
    node = MeshNode(MeshSettings(etcd=etcd_settings, service="probe", issuer=ISSUER))
    yield node
    node.stop()


def test_every_call_is_refused_until_the_node_has_read_the_mesh(client: Client, issuer: Issuer, node: MeshNode) -> None:
    token = issuer.token()
    for method in (*KINDS, *FRESH):
        outcome = client.call(method, "who", metadata=bearer(token))
        assert (outcome.reason, outcome.code, outcome.answers) == (
            Reason.MESH_NOT_READY,
            Reason.MESH_NOT_READY.status,
            (),
        ), method
        assert outcome.details == Reason.MESH_NOT_READY.message
    assert client.call("Public", "anonymous").answers == ("anonymous",)
    node.start()
    for method in KINDS:
        assert client.call(method, "who", metadata=bearer(token)).answers[0] == "alice", method


def test_a_stale_server_refuses_strict_methods_only(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """It refuses strict calls of every kind, and ends strict streams."""
    node.start()
    wait_until(lambda: node.freshness_age() is not None)
    token = issuer.token()
    for method in FRESH:
        assert client.call(method, "who", metadata=bearer(token)).answers[0] == "alice", method
    lenient = hold(client, server, KINDS[1:], token)
    strict = hold(client, server, FRESH[1:], token)
    # From here on the node gets no events. It can prove its freshness until there is an event that it misses.
    node._mirror.stop()
    issuer.revoke(subject_scope("carol"))
    for method, stream in strict.items():
        outcome = stream.end()
        assert (outcome.reason, outcome.code) == (Reason.MESH_STALE, Reason.MESH_STALE.status), method
    for method in FRESH:
        outcome = client.call(method, "who", metadata=bearer(token))
        assert (outcome.reason, outcome.code, outcome.answers) == (
            Reason.MESH_STALE,
            Reason.MESH_STALE.status,
            (),
        ), method
    for method in KINDS:
        assert client.call(method, "who", metadata=bearer(token)).answers[0] == "alice", method
    # A stream is removed a moment after its caller has got the status.
    wait_until(lambda: len(node.streams) == len(lenient))
