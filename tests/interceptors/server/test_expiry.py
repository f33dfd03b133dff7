"""An open stream at the expiry of its token: it ends, or follows its session, by the rule of its method."""

from __future__ import annotations

import time

from interceptors import MeshNode, Reason
from interceptors.scopes import session_scope
from tests.support.held_calls import hold
from tests.support.probe.clients import Client
from tests.support.probe.issuer import Issuer
from tests.support.probe.schema import FOLLOWING
from tests.support.probe.servers import ProbeServer

CUT = ("ServerStream", "ClientStream", "Bidi")


def test_streams_end_at_expiry_unless_they_follow_a_session(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """Those that follow a session can still be revoked."""
    expires = time.time() + 1.5
    cut = hold(client, server, CUT, issuer.token(exp=expires))
    without_session = hold(client, server, FOLLOWING, issuer.token(exp=expires, sid=None, session_exp=None))
    following = hold(client, server, FOLLOWING, issuer.token(exp=expires))
    for streams in (cut, without_session):
        for method, stream in streams.items():
            assert stream.end().reason is Reason.CREDENTIAL_EXPIRED, method
            assert time.time() >= expires
    # All tokens expired at the same time.
    assert len(node.streams) == len(following)
    issuer.revoke(session_scope("session-1"))
    for method, stream in following.items():
        assert stream.end().reason is Reason.CREDENTIAL_REVOKED, method


def test_a_stream_that_follows_its_session_ends_with_the_session(
    client: Client, server: ProbeServer, issuer: Issuer
) -> None:
    ends = time.time() + 1.2
    for method, stream in hold(client, server, FOLLOWING, issuer.token(exp=ends - 0.4, session_exp=ends)).items():
        assert stream.end().reason is Reason.CREDENTIAL_EXPIRED, method
        assert time.time() >= ends
