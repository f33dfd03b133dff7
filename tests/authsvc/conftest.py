"""Fixtures for the tests of issuing, sessions and revocation."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import argon2
import pytest

from authsvc.accounts.accounts import Accounts
from authsvc.accounts.passwords import Passwords
from authsvc.revocation.revoker import Revoker
from authsvc.sessions.directory import SessionDirectory
from authsvc.settings import AuthSettings
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.node.mesh_node import MeshNode
from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.auth_api import ADMIN, Api, serve
from tests.support.processes import ISSUER, KEK
from tests.support.replica import ALICE_PASSWORD, AUDIENCES, SCOPES, Clock, InterruptedEtcdClient, Replica

# Small, so that the tests are quick. No test depends on the cost of a hash.
SMALL = argon2.Parameters(
    type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=1, memory_cost=64, parallelism=1
)


@pytest.fixture(scope="session")
def passwords() -> Iterator[Passwords]:
    """A pool of password workers whose hashes cost almost nothing."""
    pool = Passwords(workers=2, max_waiting=1000, parameters=SMALL)
    yield pool
    pool.close()


@pytest.fixture
def settings(etcd_settings: EtcdSettings) -> AuthSettings:
    """The settings of a replica on this test's etcd."""
    return AuthSettings(
        mesh=MeshSettings(etcd=etcd_settings, service="auth", issuer=ISSUER),
        server=ServerSettings(listen="127.0.0.1:0", plaintext=True),
        kek=KEK,
    )


@pytest.fixture
def clock() -> Clock:
    """The replica's clock."""
    return Clock()


@pytest.fixture
def replica(etcd_client: EtcdClient, settings: AuthSettings, passwords: Passwords, clock: Clock) -> Replica:
    """A replica whose mesh has a signing key and alice."""
    made = Replica(etcd_client, settings, passwords, clock)
    made.rotate()
    made.accounts.create_user("alice", ALICE_PASSWORD, scopes=SCOPES, audiences=AUDIENCES)
    return made


@pytest.fixture
def interrupted(replica: Replica) -> Iterator[tuple[Replica, InterruptedEtcdClient]]:
    """Another replica and its etcd client, which can run an action of the test before its next commit."""
    with InterruptedEtcdClient(replica.settings.mesh.etcd) as etcd:
        other = Replica(etcd, replica.settings, replica.passwords, replica.clock)
        # It puts its lifetime now, so that its next commit is the one that the test asks for.
        other.issuer.lifetime.read_in_force(other.layout.signing)
        yield other, etcd


@pytest.fixture
def node(etcd_settings: EtcdSettings) -> Iterator[MeshNode]:
    """A node of another service on this test's etcd, which verifies credentials."""
    with MeshNode(MeshSettings(etcd=etcd_settings, service="storefront", issuer=ISSUER)) as started:
        yield started


@pytest.fixture(scope="module")
def api(etcd: EtcdProcess, passwords: Passwords) -> Iterator[Api]:
    """One server for the tests of a module. Each test signs in itself, and looks only at its own sessions."""
    settings = AuthSettings(
        mesh=MeshSettings(etcd=etcd.settings(f"/{uuid.uuid4().hex}/"), service="auth", issuer=ISSUER),
        server=ServerSettings(listen="127.0.0.1:0", plaintext=True),
        kek=KEK,
    )
    with EtcdClient(settings.mesh.etcd) as client:
        directory = SessionDirectory(settings.mesh.etcd, Layout(settings.mesh.etcd.prefix))
        replica = Replica(client, settings, passwords, Clock(), directory=directory)
        replica.rotate()
        audiences = ["credmesh.auth", "storefront"]
        for subject in ("alice", "bob", "carol"):
            replica.accounts.create_user(subject, ALICE_PASSWORD, scopes=SCOPES, audiences=audiences)
        _, secret = replica.accounts.create_client("operator", scopes=ADMIN, audiences=["credmesh.auth"])
        yield from serve(replica, directory, secret)


@pytest.fixture
def accounts(etcd_client: EtcdClient, layout: Layout, passwords: Passwords, settings: AuthSettings) -> Accounts:
    """The accounts in this test's etcd."""
    return Accounts(etcd_client, layout, passwords, Revoker(etcd_client, layout, settings))
