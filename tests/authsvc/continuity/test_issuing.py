"""No credential is issued from an etcd that has lost a part of its history: it may lack a revocation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import argon2
import pytest

from authsvc.accounts.passwords import Passwords
from authsvc.settings import AuthSettings
from credmesh.store.v1 import mesh_pb2
from interceptors import Reason, Refusal
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout, beacon_update
from interceptors.scopes import subject_scope
from interceptors.settings import MeshSettings, ServerSettings
from interceptors.trust.bundle import TrustBundle
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd import backups
from tests.support.processes import ISSUER, KEK
from tests.support.replica import ALICE_PASSWORD, AUDIENCES, SCOPES, Clock, Replica

_SMALL = argon2.Parameters(
    type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=1, memory_cost=64, parallelism=1
)


def test_a_session_revoked_after_the_backup_is_not_refreshed_from_it(own_etcd: EtcdProcess, tmp_path: Path) -> None:
    """No check of the history has run yet: the read that the issuing rests on finds the loss."""
    etcd_settings = own_etcd.settings()
    settings = AuthSettings(
        mesh=MeshSettings(etcd=etcd_settings, service="auth", issuer=ISSUER),
        server=ServerSettings(listen="127.0.0.1:0", plaintext=True),
        kek=KEK,
    )
    passwords = Passwords(workers=1, max_waiting=10, parameters=_SMALL)
    layout = Layout(etcd_settings.prefix)
    bundle = TrustBundle(layout, ISSUER)
    with EtcdClient(etcd_settings) as etcd:
        replica = Replica(etcd, settings, passwords, Clock(), bundle=bundle)
        history = mesh_pb2.History(format=1, history_id="first", cluster_id=etcd.read(layout.beacon).cluster_id)
        etcd.commit([], [Put(layout.history, history.SerializeToString()), beacon_update(layout)])
        replica.rotate()
        replica.accounts.create_user("alice", ALICE_PASSWORD, scopes=SCOPES, audiences=AUDIENCES)
        alice = replica.login()
        backup = backups.save(own_etcd, tmp_path / "backup.db")
        replica.revocation.revoke(subject_scope("alice"), actor="test", reason="test")
        bundle.load(etcd.read_prefix(layout.mesh))
        losses: list[bool] = []
        bundle.monitor.loss_listeners.append(lambda: losses.append(True))

        backups.restore(own_etcd, backup, new_cluster=False)
        attempts: list[Callable[[], object]] = [lambda: replica.refresh(alice.refresh_token), lambda: replica.login()]
        for attempt in attempts:
            with pytest.raises(Refusal) as refused:
                attempt()
            assert refused.value.reason is Reason.MESH_NOT_READY
        assert losses == [True]
        # Not vacuous: a replica that has observed nothing issues from the restored etcd.
        assert replica.another().refresh(alice.refresh_token).access_token
    passwords.close()
