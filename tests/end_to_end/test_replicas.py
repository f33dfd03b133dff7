"""Two replicas as real processes: each honours the answers of the other, also after a crash (I4, I5)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.errors import Reason, Refusal, reason_of
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.node.mesh_node import MeshNode
from interceptors.scopes import session_scope
from interceptors.settings import EtcdSettings, MeshSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.processes import ISSUER, AuthProcess, seed
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def mesh(etcd: EtcdProcess) -> Iterator[tuple[EtcdSettings, AuthProcess, AuthProcess]]:
    """Two replicas whose sessions time out after four idle seconds, and the settings of their etcd."""
    settings = etcd.settings(f"/replicas-{os.getpid()}/")
    seed(settings)
    environ = {"CREDMESH_SESSION_IDLE": "4", "CREDMESH_REFRESH_GRACE": "2"}
    with AuthProcess(settings, environ=environ) as first, AuthProcess(settings, environ=environ) as second:
        yield settings, first, second


def _login(channel: grpc.Channel) -> auth_pb2.Credentials:
    grant = auth_pb2.PasswordGrant(subject="alice", password="alice-password")
    stub = auth_pb2_grpc.AuthServiceStub(channel)
    return stub.Login(auth_pb2.LoginRequest(password=grant), timeout=20).credentials


def _refresh(channel: grpc.Channel, token: str) -> auth_pb2.Credentials:
    stub = auth_pb2_grpc.AuthServiceStub(channel)
    return stub.Refresh(auth_pb2.RefreshRequest(refresh_token=token), timeout=20).credentials


def test_an_idle_session_ends_on_every_node(
    mesh: tuple[EtcdSettings, AuthProcess, AuthProcess],
) -> None:
    """The leader ends it without a request, by an epoch as for any revocation."""
    settings, first, second = mesh
    layout = Layout(settings.prefix)
    with (
        first.channel() as channel,
        EtcdClient(settings) as etcd,
        MeshNode(MeshSettings(etcd=settings, service="storefront", issuer=ISSUER)) as node,
    ):
        credentials = _login(channel)
        assert node.verify(credentials.access_token).subject == "alice"
        key = layout.session(credentials.session_id)
        stored = etcd.read(key).values[key]
        assert store_pb2.SessionRecord.FromString(stored.value).subject == "alice"

        def refused() -> Reason | None:
            try:
                node.verify(credentials.access_token)
            except Refusal as refusal:
                return refusal.reason
            return None

        assert wait_until(refused, what="the node to refuse the token") is Reason.CREDENTIAL_REVOKED
        assert key not in etcd.read(key).values
        assert layout.epoch(session_scope(credentials.session_id)) in etcd.read_prefix(layout.epochs).values

    def audited() -> int:
        return sum(
            len(replica.log(event="session.end", session_id=credentials.session_id)) for replica in (first, second)
        )

    assert wait_until(audited, what="the audit line") == 1


def test_replicas_give_the_same_successor_also_after_a_crash(
    mesh: tuple[EtcdSettings, AuthProcess, AuthProcess],
) -> None:
    _, first, second = mesh
    with first.channel() as one, second.channel() as other, ThreadPoolExecutor(8) as pool:
        credentials = _login(one)
        channels = [one, other] * 4
        answers = list(pool.map(lambda channel: _refresh(channel, credentials.refresh_token), channels))
        assert len({answer.refresh_token for answer in answers}) == 1
        first.kill()
        # A client without an answer retries, and a client with one refreshes again.
        again = _refresh(other, answers[0].refresh_token)
        assert _refresh(other, answers[0].refresh_token).refresh_token == again.refresh_token
        assert _refresh(other, again.refresh_token).access_token
    first.start()


def test_a_reused_token_is_refused_by_both_replicas(mesh: tuple[EtcdSettings, AuthProcess, AuthProcess]) -> None:
    _, first, second = mesh
    with first.channel() as one, second.channel() as other:
        stolen = _login(one).refresh_token
        current = _refresh(one, stolen).refresh_token

        def reused() -> Reason | None:
            # Within the grace window this is a retry, which changes nothing. After it, it is reuse.
            try:
                retried = _refresh(other, stolen)
            except grpc.RpcError as error:
                return _reason(error)
            assert retried.refresh_token == current
            return None

        assert wait_until(reused, what="the grace window to end") is Reason.CREDENTIAL_REVOKED
        with pytest.raises(grpc.RpcError) as refused:
            _refresh(one, current)
        assert _reason(refused.value) is Reason.CREDENTIAL_INVALID
    assert wait_until(lambda: len(second.log(event="refresh.reuse")), what="the audit line") == 1


def _reason(error: grpc.RpcError) -> Reason | None:
    assert isinstance(error, grpc.Call)
    return reason_of(error.trailing_metadata())
