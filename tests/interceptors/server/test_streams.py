"""Open streams: they end when their credential does, with the reason, and only then."""

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
    """A stream whose handler is surely inside, and blocked."""
    inside = server.record.inside
    stream = client.open(kind, "hold", metadata=bearer(token))
    if kind == "ClientStream":
        wait_until(lambda: server.record.inside > inside)
    else:
        assert stream.next() == "held"
    return stream


@pytest.mark.parametrize("kind", STREAMING)
def test_a_revoked_stream_ends_with_its_reason_although_its_handler_is_blocked(
    client: Client, server: ProbeServer, issuer: Issuer, kind: str
) -> None:
    stream = open_and_hold(client, server, kind, issuer.token())
    issuer.revoke(subject_scope("alice"))
    outcome = stream.end()
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.UNAUTHENTICATED, Reason.CREDENTIAL_REVOKED)
    assert outcome.details == Reason.CREDENTIAL_REVOKED.message


# In a thread of an aio server grpc tells a handler nothing before it returns.
@pytest.mark.parametrize("server", [kind for kind in SERVERS if kind != "aio-threads"], indirect=True)
@pytest.mark.parametrize("kind", STREAMING)
def test_the_handler_of_a_revoked_stream_can_notice(
    client: Client, server: ProbeServer, issuer: Issuer, kind: str
) -> None:
    stream = open_and_hold(client, server, kind, issuer.token())
    issuer.revoke(session_scope("session-1"))
    stream.end()
    wait_until(server.record.noticed.is_set)


@pytest.mark.parametrize("scope", [EVERYONE, client_scope("app"), audience_scope("probe")])
def test_every_scope_ends_its_streams(client: Client, server: ProbeServer, issuer: Issuer, scope: str) -> None:
    stream = open_and_hold(client, server, "ServerStream", issuer.token())
    issuer.revoke(scope)
    assert stream.end().reason is Reason.CREDENTIAL_REVOKED


def test_the_streams_of_others_and_newer_ones_of_the_same_subject_go_on(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    alice = open_and_hold(client, server, "Bidi", issuer.token())
    bob = open_and_hold(client, server, "Bidi", issuer.token(sub="bob", sid="session-2"))
    issuer.revoke(subject_scope("alice"))
    assert alice.end().reason is Reason.CREDENTIAL_REVOKED
    again = open_and_hold(client, server, "Bidi", issuer.token())
    # Revoking somebody else moves every node on; only then is "nothing happened" worth something.
    revision = issuer.revoke(subject_scope("carol"))
    wait_until(lambda: node.bundle.revision >= revision)
    assert len(node.calls) == 2
    for stream in (bob, again):
        stream.cancel()
    if server.kind == "aio-threads":
        server.record.release.set()  # there a call is over when its handler returns
    wait_until(lambda: len(node.calls) == 0)


def test_a_stream_that_follows_its_session_does_not_need_its_key_any_more_when_that_retires(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """A key that retires has signed nothing that is still valid; a stream that follows its session needs it no more."""
    kid = issuer.kid
    following = open_and_hold(client, server, "Following", issuer.token(exp=time.time() + 0.5))
    cut = open_and_hold(client, server, "ServerStream", issuer.token())
    wait_until(lambda: client.call("Unary", "x", metadata=bearer(issuer.token(exp=time.time() - 1))).reason)
    expired = time.time() + 0.6
    wait_until(lambda: time.time() > expired)
    issuer.rotate()
    issuer.remove_key(kid)
    assert cut.end().reason is Reason.KEY_UNKNOWN
    assert len(node.calls) == 1
    issuer.revoke(subject_scope("alice"))
    assert following.end().reason is Reason.CREDENTIAL_REVOKED


def thiefs_token(issuer: Issuer, *, lives: float) -> str:
    """What somebody makes of a stolen key: of a session that there never was, and newer than any revocation."""
    now = time.time()
    return issuer.token(exp=now + lives, session_exp=now + 1e8, sid="made-up", sub="nobody", epoch=1 << 60)


def test_every_stream_of_a_key_that_is_revoked_by_force_ends_whatever_its_token_claims(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """Whoever stole the key opens a stream that follows a session, with a token that expires before anybody notices."""
    kid = issuer.kid
    expires = time.time() + 1
    thiefs = open_and_hold(client, server, "Following", thiefs_token(issuer, lives=1))
    lasting = open_and_hold(client, server, "Following", thiefs_token(issuer, lives=1e8))
    issuer.rotate()
    other = open_and_hold(client, server, "Following", issuer.token(epoch=0))
    wait_until(lambda: time.time() > expires)
    issuer.revoke_key(kid)
    for stream in (thiefs, lasting):
        assert stream.end().reason is Reason.KEY_UNKNOWN
    assert len(node.calls) == 1
    other.cancel()


@pytest.mark.parametrize("kind", STREAMING)
def test_a_stream_that_its_caller_leaves_is_forgotten(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode, kind: str
) -> None:
    stream = open_and_hold(client, server, kind, issuer.token())
    assert len(node.calls) == 1
    stream.cancel()
    if server.kind == "aio-threads":
        server.record.release.set()  # there a call is over when its handler returns
    wait_until(lambda: len(node.calls) == 0)
    assert issuer.revoke(subject_scope("alice"))


def test_a_stream_opened_while_its_credential_is_being_revoked_does_not_slip_through(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """Between the check and being kept among the open calls lies a moment in which an epoch can pass by."""
    for attempt in range(10):
        subject = f"user-{attempt}"
        token = issuer.token(sub=subject, sid=subject)
        stream = client.open("Following", "hold", metadata=bearer(token))
        issuer.revoke(subject_scope(subject))
        assert stream.end().reason is Reason.CREDENTIAL_REVOKED
    assert len(node.calls) == 0


def test_a_stream_that_nobody_reads_ends_too_and_its_reason_is_there_when_it_is_read(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    """The connection's window is full then, so the status has to wait behind what is already on its way."""
    stream = client.open("Following", "flood", metadata=bearer(issuer.token()))
    stream.next()
    wait_until(lambda: len(node.calls) == 1)
    issuer.revoke(subject_scope("alice"))
    wait_until(lambda: len(node.calls) == 0)
    assert stream.end().reason is Reason.CREDENTIAL_REVOKED


@pytest.mark.parametrize("server_kind", ["sync", "aio"])
def test_hundreds_of_streams_of_one_subject_end_and_those_of_others_stay(
    node: MeshNode, issuer: Issuer, server_kind: str
) -> None:
    def opened(client: Client, token: str, count: int) -> list[Stream]:
        streams = [client.open("ServerStream", "hold", metadata=bearer(token)) for _ in range(count)]
        for stream in streams:
            assert stream.next() == "held"
        return streams

    with ProbeServer(node, server_kind, threads=260) as server, make_client("aio", server.target) as client:
        alices = opened(client, issuer.token(), 200)
        bobs = opened(client, issuer.token(sub="bob", sid="session-2"), 50)
        issuer.revoke(subject_scope("alice"))
        for stream in alices:
            assert stream.end().reason is Reason.CREDENTIAL_REVOKED
        assert len(node.calls) == 50
        for stream in bobs:
            stream.cancel()
        wait_until(lambda: len(node.calls) == 0)


def test_a_node_that_missed_a_revocation_ends_the_stream_when_it_reads_the_mesh_anew(
    new_node: Callable[..., MeshNode], issuer: Issuer
) -> None:
    """As after a compaction: the events are gone, and the snapshot alone tells."""
    node = new_node()
    with ProbeServer(node, "sync") as server, make_client("sync", server.target) as client:
        stream = open_and_hold(client, server, "ServerStream", issuer.token())
        mirror = node._mirror
        mirror.stop()
        issuer.revoke(subject_scope("alice"))
        assert len(node.calls) == 1
        node._on_snapshot(issuer.client.read_prefix(issuer.layout.mesh))
        assert stream.end().reason is Reason.CREDENTIAL_REVOKED


def test_a_node_that_missed_the_revocation_of_a_key_ends_its_streams_and_keeps_those_of_the_others(
    new_node: Callable[..., MeshNode], issuer: Issuer
) -> None:
    """Even of a key that is there again: the epoch in the snapshot alone tells."""
    node = new_node()
    with ProbeServer(node, "sync") as server, make_client("sync", server.target) as client:
        thiefs = open_and_hold(client, server, "Following", thiefs_token(issuer, lives=1e8))
        kid, published = issuer.kid, issuer.layout.key(issuer.kid)
        record = issuer.client.read(published).values[published].value
        issuer.rotate()
        wait_until(lambda: issuer.kid in node.bundle.keys)
        valid = open_and_hold(client, server, "Following", issuer.token())
        node._mirror.stop()
        issuer.revoke_key(kid)
        issuer.client.commit([], [Put(published, record), Put(issuer.layout.beacon, b"")])
        assert len(node.calls) == 2
        node._on_snapshot(issuer.client.read_prefix(issuer.layout.mesh))
        assert thiefs.end().reason is Reason.KEY_UNKNOWN
        assert len(node.calls) == 1
        valid.cancel()


def test_a_stream_that_rests_on_its_session_alone_ends_when_events_were_missed(
    new_node: Callable[..., MeshNode], issuer: Issuer
) -> None:
    """Its token has expired, and what ended its session may have come, and leased out, while nobody was looking."""
    node = new_node()
    with ProbeServer(node, "sync") as server, make_client("sync", server.target) as client:
        expires = time.time() + 1
        following = open_and_hold(client, server, "Following", issuer.token(exp=expires))
        valid = open_and_hold(client, server, "Following", issuer.token(sub="bob", sid="session-2"))
        wait_until(lambda: time.time() > expires)
        node._mirror.stop()
        assert len(node.calls) == 2
        node._on_snapshot(issuer.client.read_prefix(issuer.layout.mesh))
        assert following.end().reason is Reason.CREDENTIAL_EXPIRED
        # What has not expired was checked anew, against everything that could have killed it.
        assert len(node.calls) == 1
        valid.cancel()
