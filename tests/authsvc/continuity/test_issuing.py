"""Nothing is issued from an etcd that has lost something: what is lost may be a revocation."""

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
from interceptors.keyspace import moved_beacon
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


def test_a_session_that_was_revoked_after_the_backup_is_not_refreshed_from_it(
    own_etcd: EtcdProcess, tmp_path: Path
) -> None:
    """Before anybody has noticed: the very request that would issue is the one that notices."""
    etcd_settings = own_etcd.settings()
    settings = AuthSettings(
        mesh=MeshSettings(etcd=etcd_settings, service="auth", issuer=ISSUER),
        server=ServerSettings(listen="127.0.0.1:0", plaintext=True),
        kek=KEK,
    )
    passwords = Passwords(workers=1, waiting=10, parameters=_SMALL)
    with EtcdClient(etcd_settings) as etcd:
        replica = Replica(etcd, settings, passwords, Clock())
        history = mesh_pb2.History(format=1, history_id="first", cluster_id=etcd.read(replica.layout.beacon).cluster_id)
        etcd.commit([], [Put(replica.layout.history, history.SerializeToString()), moved_beacon(replica.layout)])
        replica.rotate()
        replica.accounts.create_user("alice", ALICE_PASSWORD, scopes=SCOPES, audiences=AUDIENCES)
        witness = TrustBundle(replica.layout, ISSUER)
        replica.issuer.lifetime.witness = witness
        alice = replica.login()
        backup = backups.save(own_etcd, tmp_path / "backup.db")
        replica.revocation.revoke(subject_scope("alice"), actor="test", reason="test")
        witness.load(etcd.read_prefix(replica.layout.mesh))
        noticed: list[bool] = []
        witness.continuity.listeners.append(lambda: noticed.append(True))

        backups.restore(own_etcd, backup, new_cluster=False)
        attempts: list[Callable[[], object]] = [lambda: replica.refresh(alice.refresh_token), lambda: replica.login()]
        for attempt in attempts:
            with pytest.raises(Refusal) as refused:
                attempt()
            assert refused.value.reason is Reason.MESH_NOT_READY
        assert noticed == [True]
        # Without the witness it is as if nothing had been: that is what the refusal is for.
        replica.issuer.lifetime.witness = None
        assert replica.refresh(alice.refresh_token).access_token
    passwords.close()
