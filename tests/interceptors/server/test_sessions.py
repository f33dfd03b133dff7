"""Opaque sessions on every client, server and kind of RPC. A real auth replica resolves them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from interceptors import EtcdSettings, GrpcSessionResolver, MeshNode, MeshSettings, Reason
from interceptors.client import ClientSecret, Credentials, channel
from localmesh.etcd.process import EtcdProcess
from tests.support.held_calls import hold
from tests.support.people import People, populate
from tests.support.probe.clients import Client, bearer
from tests.support.probe.schema import FOLLOWING, FRESH, KINDS
from tests.support.probe.servers import ProbeServer
from tests.support.processes import ISSUER, AuthProcess


@pytest.fixture(scope="module")
def mesh(etcd: EtcdProcess) -> EtcdSettings:
    """The mesh of these tests, each of which makes its own sessions."""
    return etcd.settings(f"/{uuid.uuid4().hex}/")


@pytest.fixture(scope="module")
def secrets(mesh: EtcdSettings) -> dict[str, str]:
    """Creates the accounts; returns the clients' secrets."""
    return populate(mesh)


@pytest.fixture(scope="module")
def auth(mesh: EtcdSettings, secrets: dict[str, str]) -> Iterator[AuthProcess]:
    """An auth replica."""
    del secrets
    with AuthProcess(mesh) as replica:
        yield replica


@pytest.fixture(scope="module")
def people(auth: AuthProcess, secrets: dict[str, str]) -> Iterator[People]:
    """The users and clients that call it."""
    with auth.channel() as anonymous:
        yield People(anonymous, secrets)


@pytest.fixture(scope="module")
def node(mesh: EtcdSettings, auth: AuthProcess, secrets: dict[str, str]) -> Iterator[MeshNode]:
    """A node that resolves sessions at the replica."""
    services = ClientSecret("services", secrets["services"], audiences=("credmesh.auth",))
    with (
        auth.channel() as anonymous,
        Credentials(services, anonymous) as credentials,
        channel(auth.target, allow_plaintext=True, credentials=credentials) as auth_channel,
        MeshNode(
            MeshSettings(etcd=mesh, service="probe", issuer=ISSUER), resolver=GrpcSessionResolver(auth_channel)
        ) as node,
    ):
        yield node


def test_an_opaque_session_is_accepted_and_its_handler_sees_the_caller(client: Client, people: People) -> None:
    alice, bob = people.sign_in("alice", opaque=True), people.sign_in("bob", opaque=True)
    for method in (*KINDS, *FRESH, *FOLLOWING):
        for subject, session in (("alice", alice), ("bob", bob)):
            outcome = client.call(method, "session", metadata=bearer(session.session_token))
            assert outcome.reason is None, method
            assert outcome.answers[0] == f"{subject} {session.session_id}", method


def test_a_revoked_opaque_session_is_refused_and_its_streams_end(
    client: Client, server: ProbeServer, people: People
) -> None:
    session = people.sign_in(opaque=True)
    streams = hold(client, server, (*KINDS[1:], *FOLLOWING), session.session_token)
    people.revoke(session_id=session.session_id)
    for method, stream in streams.items():
        assert stream.end().reason is Reason.CREDENTIAL_REVOKED, method
    for method in KINDS:
        outcome = client.call(method, "who", metadata=bearer(session.session_token))
        assert (outcome.reason, outcome.answers) == (Reason.CREDENTIAL_REVOKED, ()), method
