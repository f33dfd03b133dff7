"""Open streams end when their credential ends, with the reason, and not before."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
import pytest

from interceptors import MeshNode, Reason
from interceptors.etcd.client import Put
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from tests.support.probe.clients import Client, Stream, bearer, make_client
from tests.support.probe.issuer import Issuer
from tests.support.probe.servers import SERVERS, ProbeServer
from tests.support.waiting import wait_until

STREAMING = ("ServerStream", "ClientStream", "Bidi")


def open_and_hold(client: Client, server: ProbeServer, kind: str, token: str) -> Stream:
    """Opens a stream, and waits until its handler runs and is blocked."""
    inside = server.record.inside
    stream = client.open(kind, "hold", metadata=bearer(token))
    if kind == "ClientStream":
        wait_until(lambda: server.record.inside > inside)
    else:
        assert stream.next() == "held"
    return stream


@pytest.mark.parametrize("kind", STREAMING)
def test_a_revoked_stream_ends_with_its_reason_while_its_handler_is_blocked(
    client: Client, server: ProbeServer, issuer: Issuer, kind: str
) -> None:
    stream = open_and_hold(client, server, kind, issuer.token())
    issuer.revoke(subject_scope("alice"))
    outcome = stream.end()
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.UNAUTHENTICATED, Reason.CREDENTIAL_REVOKED)
    assert outcome.details == Reason.CREDENTIAL_REVOKED.message


# A plain function on an aio server cannot learn that its call is over.
@pytest.mark.parametrize("server", [kind for kind in SERVERS if kind != "aio-threads"], indirect=True)
@pytest.mark.parametrize("kind", STREAMING)
def test_the_handler_of_a_revoked_stream_learns_that_the_call_is_over(
    client: Client, server: ProbeServer, issuer: Issuer, kind: str
) -> None:
    stream = open_and_hold(client, server, kind, issuer.token())
    issuer.revoke(session_scope("session-1"))
    stream.end()
    wait_until(server.record.noticed.is_set)


@pytest.mark.parametrize("scope", [EVERYONE, client_scope("app"), audience_scope("probe")])
def test_revoking_a_shared_scope_ends_its_streams(
    client: Client, server: ProbeServer, issuer: Issuer, scope: str
) -> None:
    stream = open_and_hold(client, server, "ServerStream", issuer.token())
    issuer.revoke(scope)
    assert stream.end().reason is Reason.CREDENTIAL_REVOKED


def test_a_revocation_ends_no_newer_stream_and_no_stream_of_others(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    alice = open_and_hold(client, server, "Bidi", issuer.token())
    bob = open_and_hold(client, server, "Bidi", issuer.token(sub="bob", sid="session-2"))
    issuer.revoke(subject_scope("alice"))
    assert alice.end().reason is Reason.CREDENTIAL_REVOKED
    again = open_and_hold(client, server, "Bidi", issuer.token())
    # Once the node has applied a later revocation, it has applied the first one completely.
    revision = issuer.revoke(subject_scope("carol"))
    wait_until(lambda: node.bundle.revision >= revision)
    assert len(node.streams) == 2
    for stream in (bob, again):
        stream.cancel()
    if server.kind == "aio-threads":
        server.record.release.set()  # there a call is not over before its handler returns
    wait_until(lambda: len(node.streams) == 0)


def test_a_stream_that_follows_its_session_outlives_a_retired_key(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """When a key retires, all its tokens have expired, and the stream rests on its session alone."""
    kid = issuer.kid
    following = open_and_hold(client, server, "Following", issuer.token(exp=time.time() + 0.5))
    cut = open_and_hold(client, server, "ServerStream", issuer.token())
    wait_until(lambda: client.call("Unary", "x", metadata=bearer(issuer.token(exp=time.time() - 1))).reason)
    expired = time.time() + 0.6
    wait_until(lambda: time.time() > expired)
    issuer.rotate()
    issuer.remove_key(kid)
    assert cut.end().reason is Reason.KEY_UNKNOWN
    assert len(node.streams) == 1
    issuer.revoke(subject_scope("alice"))
    assert following.end().reason is Reason.CREDENTIAL_REVOKED


def forged_token(issuer: Issuer, *, lifetime: float) -> str:
    """A token signed with a stolen key: of a session that never existed, with an epoch above every revocation."""
    now = time.time()
    return issuer.token(exp=now + lifetime, session_exp=now + 1e8, sid="made-up", sub="nobody", epoch=1 << 60)


def test_revoking_a_key_ends_its_streams_whatever_their_tokens_claim(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """A thief of a key can open a stream that follows a session, with a token that expires soon."""
    kid = issuer.kid
    expires = time.time() + 1
    expiring = open_and_hold(client, server, "Following", forged_token(issuer, lifetime=1))
    lasting = open_and_hold(client, server, "Following", forged_token(issuer, lifetime=1e8))
    issuer.rotate()
    other = open_and_hold(client, server, "Following", issuer.token(epoch=0))
    wait_until(lambda: time.time() > expires)
    issuer.revoke_key(kid)
    for stream in (expiring, lasting):
        assert stream.end().reason is Reason.KEY_UNKNOWN
    assert len(node.streams) == 1
    other.cancel()


@pytest.mark.parametrize("kind", STREAMING)
def test_a_cancelled_stream_is_removed(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode, kind: str
) -> None:
    stream = open_and_hold(client, server, kind, issuer.token())
    assert len(node.streams) == 1
    stream.cancel()
    if server.kind == "aio-threads":
        server.record.release.set()  # there a call is not over before its handler returns
    wait_until(lambda: len(node.streams) == 0)
    assert issuer.revoke(subject_scope("alice"))


def test_a_stream_opened_during_its_revocation_ends_too(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """The epoch may come after the credential was checked and before the stream is among the open ones."""
    for attempt in range(10):
        subject = f"user-{attempt}"
        token = issuer.token(sub=subject, sid=subject)
        stream = client.open("Following", "hold", metadata=bearer(token))
        issuer.revoke(subject_scope(subject))
        assert stream.end().reason is Reason.CREDENTIAL_REVOKED
    assert len(node.streams) == 0


def test_a_stream_that_the_client_does_not_read_ends_with_its_reason(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """The flow control window is full, so the status waits behind the messages that were sent before."""
    stream = client.open("Following", "flood", metadata=bearer(issuer.token()))
    stream.next()
    wait_until(lambda: len(node.streams) == 1)
    issuer.revoke(subject_scope("alice"))
    wait_until(lambda: len(node.streams) == 0)
    assert stream.end().reason is Reason.CREDENTIAL_REVOKED


@pytest.mark.parametrize("server_kind", ["sync", "aio"])
def test_a_revocation_ends_hundreds_of_streams_and_no_stream_of_others(
    node: MeshNode, issuer: Issuer, server_kind: str
) -> None:
    def open_streams(client: Client, token: str, count: int) -> list[Stream]:
        streams = [client.open("ServerStream", "hold", metadata=bearer(token)) for _ in range(count)]
        for stream in streams:
            assert stream.next() == "held"
        return streams

    with ProbeServer(node, server_kind, threads=260) as server, make_client("aio", server.target) as client:
        alices = open_streams(client, issuer.token(), 200)
        bobs = open_streams(client, issuer.token(sub="bob", sid="session-2"), 50)
        issuer.revoke(subject_scope("alice"))
        for stream in alices:
            assert stream.end().reason is Reason.CREDENTIAL_REVOKED
        assert len(node.streams) == 50
        for stream in bobs:
            stream.cancel()
        wait_until(lambda: len(node.streams) == 0)


def test_a_missed_revocation_ends_the_stream_at_the_next_snapshot(
    new_node: Callable[..., MeshNode], issuer: Issuer
) -> None:
    """As after a compaction: the events are gone, and only the snapshot shows the revocation."""
    node = new_node()
    with ProbeServer(node, "sync") as server, make_client("sync", server.target) as client:
        stream = open_and_hold(client, server, "ServerStream", issuer.token())
        mirror = node._mirror
        mirror.stop()
        issuer.revoke(subject_scope("alice"))
        assert len(node.streams) == 1
        node._on_snapshot(issuer.client.read_prefix(issuer.layout.mesh))
        assert stream.end().reason is Reason.CREDENTIAL_REVOKED


def test_a_missed_key_revocation_ends_the_keys_streams_at_the_next_snapshot(
    new_node: Callable[..., MeshNode], issuer: Issuer
) -> None:
    """Even if the key was published again: the key's epoch in the snapshot shows the revocation."""
    node = new_node()
    with ProbeServer(node, "sync") as server, make_client("sync", server.target) as client:
        forged = open_and_hold(client, server, "Following", forged_token(issuer, lifetime=1e8))
        kid, published = issuer.kid, issuer.layout.key(issuer.kid)
        record = issuer.client.read(published).values[published].value
        issuer.rotate()
        wait_until(lambda: issuer.kid in node.bundle.keys)
        valid = open_and_hold(client, server, "Following", issuer.token())
        node._mirror.stop()
        issuer.revoke_key(kid)
        issuer.client.commit([], [Put(published, record), Put(issuer.layout.beacon, b"")])
        assert len(node.streams) == 2
        node._on_snapshot(issuer.client.read_prefix(issuer.layout.mesh))
        assert forged.end().reason is Reason.KEY_UNKNOWN
        assert len(node.streams) == 1
        valid.cancel()


def test_a_stream_with_an_expired_token_ends_when_events_were_missed(
    new_node: Callable[..., MeshNode], issuer: Issuer
) -> None:
    """The epoch that ended its session may have come, and its lease may have ended, while the node missed events."""
    node = new_node()
    with ProbeServer(node, "sync") as server, make_client("sync", server.target) as client:
        expires = time.time() + 1
        following = open_and_hold(client, server, "Following", issuer.token(exp=expires))
        valid = open_and_hold(client, server, "Following", issuer.token(sub="bob", sid="session-2"))
        wait_until(lambda: time.time() > expires)
        node._mirror.stop()
        assert len(node.streams) == 2
        node._on_snapshot(issuer.client.read_prefix(issuer.layout.mesh))
        assert following.end().reason is Reason.CREDENTIAL_EXPIRED
        # The stream whose token is valid was checked against all epochs that can revoke it.
        assert len(node.streams) == 1
        valid.cancel()
