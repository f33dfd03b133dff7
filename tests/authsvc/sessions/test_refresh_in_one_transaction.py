"""Refreshing a session that the replica knows: one transaction, in which every race is lost safely (I3, I4).

The replica's knowledge is an index that a test loads when it wants to. So each test decides how old it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from authsvc.accounts.passwords import Passwords
from authsvc.sessions.index import SessionIndex
from authsvc.settings import AuthSettings
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from credmesh.store.v1 import mesh_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import Delete, Put
from interceptors.keyspace import Layout, beacon_update
from interceptors.node.mesh_node import MeshNode
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from interceptors.settings import EtcdSettings
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from interceptors.trust.bundle import TrustBundle
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd import backups
from tests.support.processes import ISSUER
from tests.support.replica import ALICE_PASSWORD, AUDIENCES, SCOPES, Clock, InterruptedEtcdClient, Replica, claims_of


class CountingEtcdClient(InterruptedEtcdClient):
    """Counts the requests that are sent."""

    def __init__(self, settings: EtcdSettings) -> None:
        super().__init__(settings)
        self.requests = 0

    def _request(self, *arguments: Any, **options: Any) -> Any:
        self.requests += 1
        return super()._request(*arguments, **options)


class KnowingReplica(Replica):
    """A replica whose knowledge of sessions is as old as the last `learn`, plus its own commits."""

    def __init__(
        self,
        etcd: CountingEtcdClient,
        settings: AuthSettings,
        passwords: Passwords,
        clock: Clock,
        *,
        bundle: TrustBundle | None = None,
    ) -> None:
        self.index = SessionIndex(Layout(settings.mesh.etcd.prefix))
        self.counted = etcd
        super().__init__(etcd, settings, passwords, clock, bundle=bundle, directory=self.index)

    def learn(self) -> None:
        """Reads all sessions."""
        self.index.load_sessions(self.etcd.read_prefix(self.layout.sessions))

    def begin(self) -> auth_pb2.Credentials:
        """Signs alice in and refreshes once, after which the replica knows the session and the key that signs."""
        credentials = self.refresh(self.login().refresh_token)
        self.learn()
        return credentials


@pytest.fixture
def knowing(replica: Replica) -> Iterator[KnowingReplica]:
    """A second replica, which knows sessions."""
    with CountingEtcdClient(replica.settings.mesh.etcd) as etcd:
        yield KnowingReplica(etcd, replica.settings, replica.passwords, replica.clock)


def _reason(refresh: Callable[[], object]) -> Reason:
    with pytest.raises(Refusal) as refused:
        refresh()
    return refused.value.reason


def test_a_refresh_of_a_known_session_is_one_request(knowing: KnowingReplica, node: MeshNode) -> None:
    first = knowing.begin()
    stored = knowing.etcd.read(knowing.layout.session(first.session_id)).values
    knowing.counted.requests = 0
    second = knowing.refresh(first.refresh_token)
    assert knowing.counted.requests == 1
    third = knowing.refresh(second.refresh_token)
    assert knowing.counted.requests == 2, "the replica did not keep its own commit"
    assert node.verify(third.access_token).subject == "alice"
    assert claims_of(second.access_token)["epoch"] == stored[knowing.layout.session(first.session_id)].mod_revision
    assert claims_of(first.access_token)["epoch"] < claims_of(second.access_token)["epoch"]
    assert claims_of(second.access_token)["epoch"] < claims_of(third.access_token)["epoch"]
    record = knowing.record(first.session_id)
    assert record is not None
    assert record.epoch == claims_of(third.access_token)["epoch"]


def test_it_stores_the_same_record_as_a_refresh_with_reads(replica: Replica, knowing: KnowingReplica) -> None:
    records = []
    for refreshing in (replica, knowing):
        first = knowing.begin()
        refreshing.refresh(first.refresh_token)
        record = knowing.record(first.session_id)
        assert record is not None
        records.append(record)
    different = {"session_id", "epoch", "secret_sha256", "family_sha256", "used"}
    times = {"created_at", "last_seen_at", "idle_expires_at", "expires_at"}
    for field in store_pb2.SessionRecord.DESCRIPTOR.fields:
        if field.name not in different | times:
            assert getattr(records[0], field.name) == getattr(records[1], field.name), field.name
    assert [len(record.used) for record in records] == [2, 2]


@pytest.mark.parametrize(
    "scope", [EVERYONE, subject_scope("alice"), client_scope("password"), audience_scope("storefront"), "session"]
)
def test_a_revocation_before_the_commit_ends_the_session(replica: Replica, knowing: KnowingReplica, scope: str) -> None:
    """The revocation is committed after the decision and right before the transaction."""
    first = knowing.begin()
    reason = Reason.CREDENTIAL_REVOKED
    if scope == "session":
        scope = session_scope(first.session_id)
        reason = Reason.CREDENTIAL_INVALID  # the same commit has deleted the session's record
    knowing.counted.before_commit = lambda: replica.revoke(scope)
    assert _reason(lambda: knowing.refresh(first.refresh_token)) is reason
    assert knowing.record(first.session_id) is None


def test_a_revocation_that_the_watch_has_not_brought_ends_the_session(
    replica: Replica, knowing: KnowingReplica
) -> None:
    first = knowing.begin()
    replica.revoke(subject_scope("alice"))
    assert _reason(lambda: knowing.refresh(first.refresh_token)) is Reason.CREDENTIAL_REVOKED


def test_a_revocation_from_before_the_session_does_not_matter(replica: Replica, knowing: KnowingReplica) -> None:
    replica.revoke(subject_scope("alice"))
    first = knowing.begin()
    knowing.counted.requests = 0
    assert knowing.refresh(first.refresh_token).access_token
    assert knowing.counted.requests == 1


def test_an_account_deleted_before_the_commit_ends_the_session(replica: Replica, knowing: KnowingReplica) -> None:
    first = knowing.begin()
    knowing.counted.before_commit = lambda: replica.accounts.delete_user("alice", actor="test")
    assert _reason(lambda: knowing.refresh(first.refresh_token)) is Reason.CREDENTIAL_REVOKED


def test_an_account_deleted_in_etcd_without_a_revocation_ends_the_session(
    replica: Replica, knowing: KnowingReplica
) -> None:
    first = knowing.begin()
    replica.etcd.commit([], [Delete(replica.layout.user("alice"))])
    assert _reason(lambda: knowing.refresh(first.refresh_token)) is Reason.CREDENTIAL_REVOKED


def test_an_account_narrowed_in_etcd_without_a_revocation_narrows_the_session(
    replica: Replica, knowing: KnowingReplica
) -> None:
    first = knowing.begin()
    key = replica.layout.user("alice")
    user = store_pb2.UserRecord.FromString(replica.etcd.read(key).values[key].value)
    user.scopes[:] = ["shop.read"]
    replica.etcd.commit([], [Put(key, user.SerializeToString())])
    assert list(knowing.refresh(first.refresh_token).scopes) == ["shop.read"]


def test_a_changed_account_costs_one_read_and_no_more(replica: Replica, knowing: KnowingReplica) -> None:
    first = knowing.begin()
    more = [*SCOPES, "shop.more"]
    replica.accounts.update_user("alice", scopes=more, audiences=None, actor="test")
    second = knowing.refresh(first.refresh_token)
    assert list(second.scopes) == sorted(SCOPES), "a session's grant grew"
    knowing.counted.requests = 0
    assert knowing.refresh(second.refresh_token).access_token
    assert knowing.counted.requests == 1


def test_a_key_replaced_before_the_commit_signs_nothing(replica: Replica, knowing: KnowingReplica) -> None:
    first = knowing.begin()
    knowing.counted.before_commit = replica.replace_signing_key
    second = knowing.refresh(first.refresh_token)
    assert _kid(second) != _kid(first)
    knowing.counted.requests = 0
    assert _kid(knowing.refresh(second.refresh_token)) == _kid(second)
    assert knowing.counted.requests == 1


def test_a_token_that_another_replica_issued_is_not_taken_for_reuse(replica: Replica, knowing: KnowingReplica) -> None:
    """By the record that this replica knows, its secret is unknown and its family is right: that looks like reuse."""
    first = knowing.begin()
    second = replica.refresh(first.refresh_token)
    third = knowing.refresh(second.refresh_token)
    assert third.access_token
    assert knowing.record(first.session_id) is not None


def test_a_token_that_another_replica_has_exchanged_gets_the_same_successor(
    replica: Replica, knowing: KnowingReplica
) -> None:
    first = knowing.begin()
    second = replica.refresh(first.refresh_token)
    assert knowing.refresh(first.refresh_token).refresh_token == second.refresh_token


def test_a_token_exchanged_right_before_the_commit_gets_the_same_successor(
    replica: Replica, knowing: KnowingReplica
) -> None:
    first = knowing.begin()
    successors = []
    knowing.counted.before_commit = lambda: successors.append(replica.refresh(first.refresh_token).refresh_token)
    assert [knowing.refresh(first.refresh_token).refresh_token] == successors


def test_reuse_ends_a_known_session(replica: Replica, knowing: KnowingReplica, clock: Clock) -> None:
    first = knowing.begin()
    knowing.refresh(first.refresh_token)
    clock.ahead += replica.settings.refresh_grace + 1
    assert _reason(lambda: knowing.refresh(first.refresh_token)) is Reason.CREDENTIAL_REVOKED
    assert knowing.record(first.session_id) is None


def test_concurrent_refreshes_of_a_known_session_get_one_successor(knowing: KnowingReplica) -> None:
    first = knowing.begin()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: knowing.refresh(first.refresh_token), range(8)))
    assert len({answer.refresh_token for answer in answers}) == 1


def test_a_known_session_that_timed_out_ends_with_an_epoch(knowing: KnowingReplica, clock: Clock) -> None:
    first = knowing.begin()
    clock.ahead += knowing.settings.session_idle + 1
    assert _reason(lambda: knowing.refresh(first.refresh_token)) is Reason.CREDENTIAL_EXPIRED
    assert knowing.record(first.session_id) is None
    assert knowing.epoch(session_scope(first.session_id)) > 0


def test_a_lifetime_that_is_not_in_force_is_put_in_force_first(replica: Replica, knowing: KnowingReplica) -> None:
    """A revocation must learn of the lifetime before a token is issued under it."""
    first = knowing.begin()
    lifetimes = replica.etcd.read_prefix(replica.layout.lifetimes).values
    replica.etcd.commit([], [Delete(key) for key in lifetimes])
    assert knowing.refresh(first.refresh_token).access_token
    [key] = set(lifetimes) - {replica.layout.lifetimes}
    assert replica.etcd.read(key).values[key].lease


def test_a_record_of_another_session_is_not_used(knowing: KnowingReplica) -> None:
    """It may have been copied in etcd by hand."""
    first, other = knowing.begin(), knowing.begin()
    key = knowing.layout.session(first.session_id)
    stored = knowing.etcd.read(knowing.layout.session(other.session_id)).values
    knowing.etcd.commit([], [Put(key, stored[knowing.layout.session(other.session_id)].value)])
    knowing.learn()
    secret = OpaqueToken.parse(other.refresh_token).secret
    token = OpaqueToken(OpaqueKind.REFRESH, first.session_id, secret).text()
    assert _reason(lambda: knowing.refresh(token)) is Reason.MESH_NOT_READY


def test_a_session_revoked_after_the_backup_is_not_refreshed_from_it(
    own_etcd: EtcdProcess, settings: AuthSettings, passwords: Passwords, tmp_path: Path
) -> None:
    """The restored etcd meets every condition. What the transaction reads shows the loss, before anything is issued."""
    etcd_settings = own_etcd.settings("/mesh/")
    settings = replace(settings, mesh=replace(settings.mesh, etcd=etcd_settings))
    with CountingEtcdClient(etcd_settings) as etcd:
        bundle = TrustBundle(Layout(etcd_settings.prefix), ISSUER)
        knowing = KnowingReplica(etcd, settings, passwords, Clock(), bundle=bundle)
        history = mesh_pb2.History(format=1, history_id="first", cluster_id=etcd.read("/").cluster_id)
        etcd.commit([], [Put(knowing.layout.history, history.SerializeToString()), beacon_update(knowing.layout)])
        knowing.rotate()
        knowing.accounts.create_user("alice", ALICE_PASSWORD, scopes=SCOPES, audiences=AUDIENCES)
        alice = knowing.begin()
        backup = backups.save(own_etcd, tmp_path / "backup.db")
        knowing.revoke(subject_scope("alice"))
        bundle.load(etcd.read_prefix(knowing.layout.mesh))
        losses: list[bool] = []
        bundle.monitor.loss_listeners.append(lambda: losses.append(True))

        backups.restore(own_etcd, backup, new_cluster=False)
        etcd.requests = 0
        assert _reason(lambda: knowing.refresh(alice.refresh_token)) is Reason.MESH_NOT_READY
        assert etcd.requests == 1, "it was refused by a read, and not by the transaction"
        assert losses == [True]


def _kid(credentials: auth_pb2.Credentials) -> str:
    kid: str = jwt.get_unverified_header(credentials.access_token)["kid"]
    return kid
