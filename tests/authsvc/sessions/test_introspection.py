"""Introspection is as fresh as etcd, however old the trust bundle of the replica's node is."""

from __future__ import annotations

import pytest

from authsvc.sessions.introspection import Introspection
from interceptors.errors import Refusal
from interceptors.node.mesh_node import MeshNode
from interceptors.scopes import key_scope, subject_scope
from interceptors.tokens.access_token import token_kid
from tests.support.replica import Replica


@pytest.fixture
def cut_off(replica: Replica) -> MeshNode:
    """A node whose watch has brought nothing since it started."""
    node = MeshNode(replica.settings.mesh)
    node.start(10)
    node.stop()
    return node


def test_a_revoked_token_is_inactive_before_its_node_has_the_revocation(replica: Replica, cut_off: MeshNode) -> None:
    introspection = Introspection(node=cut_off, sessions=replica.sessions)
    token = replica.login().access_token
    assert introspection.introspect(token).active
    replica.revoke(subject_scope("alice"))
    assert cut_off.verify(token).subject == "alice", "the node should not have the revocation yet"
    assert not introspection.introspect(token).active


def test_a_token_of_a_revoked_key_is_inactive_before_its_node_knows(replica: Replica, cut_off: MeshNode) -> None:
    """Whatever epoch it claims: an attacker who has the key can claim any."""
    introspection = Introspection(node=cut_off, sessions=replica.sessions)
    before = replica.login().access_token
    revoked_revision = replica.revoke(key_scope(token_kid(before)))
    after = replica.login().access_token
    assert token_kid(after) == token_kid(before)
    for token in (before, after):
        cut_off.verify(token)  # the node does not have the revocation yet
        assert not introspection.introspect(token).active
    assert cut_off.verify(after).epoch >= revoked_revision


def test_a_node_that_is_not_ready_refuses_to_introspect(replica: Replica) -> None:
    introspection = Introspection(node=MeshNode(replica.settings.mesh), sessions=replica.sessions)
    with pytest.raises(Refusal, match="has not read its trust bundle"):
        introspection.introspect(replica.login().access_token)
