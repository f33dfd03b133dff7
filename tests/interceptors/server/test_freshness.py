"""What a server does while its node has read nothing, or can no longer prove how much of the mesh it knows."""

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
    """A node that the test has to start."""
    node = MeshNode(MeshSettings(etcd=etcd_settings, service="probe", issuer=ISSUER))
    yield node
    node.stop()


def test_a_server_refuses_every_call_until_its_node_has_read_the_mesh_and_serves_from_then_on(
    client: Client, issuer: Issuer, node: MeshNode
) -> None:
    token = issuer.token()
    for method in (*KINDS, *FRESH):
        outcome = client.call(method, "who", metadata=bearer(token))
        assert (outcome.reason, outcome.code, outcome.answers) == (
            Reason.MESH_NOT_READY,
            Reason.MESH_NOT_READY.status,
            (),
        ), method
        assert outcome.details == Reason.MESH_NOT_READY.message
    assert client.call("Anybody", "nobody").answers == ("nobody",)
    node.start()
    for method in KINDS:
        assert client.call(method, "who", metadata=bearer(token)).answers[0] == "alice", method


def test_a_stale_server_refuses_strict_calls_and_ends_strict_streams_of_every_kind_and_leaves_the_others_alone(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    node.start()
    wait_until(lambda: node.freshness_age() is not None)
    token = issuer.token()
    for method in FRESH:
        assert client.call(method, "who", metadata=bearer(token)).answers[0] == "alice", method
    lenient = hold(client, server, KINDS[1:], token)
    strict = hold(client, server, FRESH[1:], token)
    # Deaf from here on. Something has to be missed: as long as nothing is, it can go on proving that it knows it all.
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
    # A call is forgotten a moment after its caller has its answer.
    wait_until(lambda: len(node.calls) == len(lenient))
