"""The leader ends sessions that timed out: with an epoch, in batches, and only while it leads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from authsvc.sessions.directory import SessionDirectory
from authsvc.sessions.expiry import SessionExpiry
from credmesh.auth.v1 import auth_pb2
from interceptors.etcd.client import Delete
from interceptors.node.mesh_node import MeshNode
from interceptors.scopes import session_scope, subject_scope
from tests.support.replica import Clock, Replica
from tests.support.waiting import wait_until


@pytest.fixture
def directory(replica: Replica, clock: Clock) -> Iterator[SessionDirectory]:
    """A directory that follows this test's etcd."""
    made = SessionDirectory(replica.settings.mesh.etcd, replica.layout, clock=clock)
    made.start()
    assert made.wait_ready(10)
    yield made
    made.stop()


@pytest.fixture
def expiry(replica: Replica, directory: SessionDirectory) -> SessionExpiry:
    """The leader's job."""
    return SessionExpiry(etcd=replica.etcd, layout=replica.layout, directory=directory, revocation=replica.revocation)


def _logins(replica: Replica, directory: SessionDirectory, count: int) -> list[auth_pb2.Credentials]:
    made = [replica.login() for _ in range(count)]
    wait_until(lambda: directory.page(size=1)[2] == count, what="the logins to be listed")
    return made


def test_idle_sessions_end_with_an_epoch_and_the_others_stay(
    replica: Replica, directory: SessionDirectory, expiry: SessionExpiry, clock: Clock, node: MeshNode
) -> None:
    idle, busy = _logins(replica, directory, 2)
    clock.ahead += replica.settings.session_idle - 60
    busy = replica.refresh(busy.refresh_token)
    clock.ahead += 61
    fence = replica.fence()

    def ended() -> bool:
        expiry.step(fence)
        return replica.record(idle.session_id) is None

    wait_until(ended, what="the idle session to end")
    epoch = replica.epoch(session_scope(idle.session_id))
    assert epoch > 0
    wait_until(
        lambda: node.bundle.epochs.find_revoked_scope([session_scope(idle.session_id)], epoch - 1),
        what="the node to apply the epoch",
    )
    assert replica.record(busy.session_id) is not None
    assert replica.epoch(session_scope(busy.session_id)) == 0
    assert replica.refresh(busy.refresh_token).access_token


def test_more_sessions_than_fit_a_transaction_are_ended(
    replica: Replica, directory: SessionDirectory, expiry: SessionExpiry, clock: Clock
) -> None:
    made = _logins(replica, directory, 130)
    clock.ahead += replica.settings.session_idle + 1
    before = replica.etcd.read(replica.layout.signing).revision
    expiry.step(replica.fence())
    assert replica.etcd.count(replica.layout.sessions) == 0
    assert replica.etcd.count(replica.layout.epochs + "sid/") == 130
    commits = replica.etcd.read(replica.layout.signing).revision - before
    assert commits <= 5, "the sessions were not ended in batches"
    assert directory.sessions_to_end(limit=1000) == []
    assert all(replica.record(credentials.session_id) is None for credentials in made)


def test_a_session_refreshed_at_the_last_moment_stays_and_the_others_end(
    replica: Replica, directory: SessionDirectory, expiry: SessionExpiry, clock: Clock
) -> None:
    made = _logins(replica, directory, 5)
    clock.ahead += replica.settings.session_idle + 1
    assert len(directory.sessions_to_end(limit=10)) == 5
    # The clock of another replica is behind, and the watch has not brought the refresh here yet.
    directory.stop()
    clock.ahead -= 100
    busy = replica.refresh(made[2].refresh_token)
    clock.ahead += 100
    expiry.step(replica.fence())
    assert replica.etcd.count(replica.layout.sessions) == 1
    assert replica.record(busy.session_id) is not None
    assert replica.epoch(session_scope(busy.session_id)) == 0


def test_revoked_sessions_lose_their_records_and_need_no_epoch(
    replica: Replica, directory: SessionDirectory, expiry: SessionExpiry
) -> None:
    _logins(replica, directory, 60)
    replica.revoke(subject_scope("alice"))
    wait_until(lambda: len(directory.sessions_to_end(limit=100)) == 60, what="the revocation")
    again = replica.login()
    expiry.step(replica.fence())
    assert replica.etcd.count(replica.layout.sessions) == 1
    assert replica.record(again.session_id) is not None
    assert replica.etcd.count(replica.layout.epochs + "sid/") == 0


def test_a_deposed_leader_ends_nothing(
    replica: Replica, directory: SessionDirectory, expiry: SessionExpiry, clock: Clock
) -> None:
    _logins(replica, directory, 3)
    fence = replica.fence()
    replica.etcd.commit([], [Delete(replica.layout.leader)])
    replica.fence()
    clock.ahead += replica.settings.session_idle + 1
    expiry.step(fence)
    assert replica.etcd.count(replica.layout.sessions) == 3
    assert len(directory.sessions_to_end(limit=10)) == 3, "the next leader must still find them"


def test_the_job_wants_to_be_called_when_the_next_session_times_out(
    replica: Replica, directory: SessionDirectory, expiry: SessionExpiry, clock: Clock
) -> None:
    fence = replica.fence()
    assert 0 < expiry.step(fence) <= 2
    _logins(replica, directory, 1)
    clock.ahead += replica.settings.session_idle - 0.5
    assert 0 < expiry.step(fence) <= 0.5
