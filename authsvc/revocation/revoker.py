"""Revoking: a new epoch for a revocation scope. If the scope is a session, its record is deleted too.

An epoch must stay in etcd as long as any credential that it revokes can be accepted, whichever replica issued it (see
authsvc.revocation.lifetimes). Then it expires with its lease, which other epochs share (see
authsvc.store.shared_leases).

If the caller wants a receipt, authsvc.revocation.receipts adds a barrier to the commit (`extra_operations`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from authsvc.revocation.lifetimes import longest_issued_lifetime, read_lifetimes_in_force
from authsvc.settings import AuthSettings
from authsvc.store.shared_leases import LEEWAY_SECONDS, SharedLeases
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, EtcdUnavailable, LeaseNotFound, Put, Unchanged
from interceptors.keyspace import Layout, beacon_update
from interceptors.scopes import session_of_scope
from interceptors.stored_records import FORMAT

__all__ = ["Revoker"]

_MAX_ATTEMPTS: Final = 3


class Revoker:
    """Commits revocations. Thread-safe; any replica may do it. Every method may raise EtcdUnavailable."""

    def __init__(
        self, etcd: EtcdClient, layout: Layout, settings: AuthSettings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._clock = clock
        self._own_lifetime = longest_issued_lifetime(settings)
        self._session_lifetime = settings.session_lifetime
        self._lock = threading.Lock()
        self._leases: dict[float, SharedLeases] = {}

    def revoke(
        self,
        scope: str,
        *,
        actor: str,
        reason: str,
        extra_conditions: Sequence[Unchanged | CreatedAt] = (),
        extra_operations: Sequence[Put | Delete] = (),
    ) -> int | None:
        """Revokes everything that was issued to a scope until now, in one commit.

        scope             from interceptors.scopes. A session's record is deleted in the same commit
        actor, reason     for people; they are stored with the epoch
        extra_conditions  further conditions of the commit
        extra_operations  further operations of the commit. A caller that must know the beacon's value puts it itself

        Returns the revision of the commit, which is the scope's new epoch. Returns None if one of the extra conditions
        does not hold; nothing has changed then.
        """
        return self.revoke_all(
            [scope],
            actor=actor,
            reason=reason,
            extra_conditions=extra_conditions,
            extra_operations=extra_operations,
        )

    def revoke_all(
        self,
        scopes: Sequence[str],
        *,
        actor: str,
        reason: str,
        extra_conditions: Sequence[Unchanged | CreatedAt] = (),
        extra_operations: Sequence[Put | Delete] = (),
    ) -> int | None:
        """Revokes several scopes in one commit, as `revoke` does for one. At most 60: etcd takes 128 operations."""
        record = mesh_pb2.Epoch(format=FORMAT, reason=reason, actor=actor, revoked_at=stamp(self._clock()))
        value = record.SerializeToString()
        in_force = read_lifetimes_in_force(self._etcd, self._layout)
        for attempts_left in range(_MAX_ATTEMPTS, 0, -1):
            longest = max(in_force.longest, self._own_lifetime)
            operations: list[Put | Delete] = []
            for scope in dict.fromkeys(scopes):  # etcd refuses a transaction that puts a key twice
                operations.append(Put(self._layout.epoch(scope), value, self._lease(scope, longest)))
                session_id = session_of_scope(scope)
                if session_id is not None:
                    operations.append(Delete(self._layout.session(session_id)))
            operations += extra_operations
            if not any(operation.key == self._layout.beacon for operation in extra_operations):
                operations.append(beacon_update(self._layout))
            try:
                revision = self._etcd.commit([*extra_conditions, in_force.condition], operations)
            except LeaseNotFound:
                # A lease was revoked by hand, or etcd was replaced. Nothing was committed.
                if attempts_left == 1:
                    raise
                with self._lock:
                    self._leases.clear()
                continue
            if revision is not None:
                return revision
            before, in_force = in_force, read_lifetimes_in_force(self._etcd, self._layout)
            if in_force.condition == before.condition:
                return None  # one of the extra conditions does not hold
        raise EtcdUnavailable(
            f"nothing was revoked: during each of {_MAX_ATTEMPTS} attempts another lifetime came into force; try again"
        )

    def _lease(self, scope: str, longest: int) -> int:
        """Returns a lease for a scope's epoch. longest: seconds for which nodes can accept an issued credential."""
        # A revoked session has no record any more, so only its tokens and cached sessions are left. Another scope may
        # cover whole sessions, whose records are not deleted.
        is_session = session_of_scope(scope) is not None
        outlived = longest if is_session else max(self._session_lifetime, longest)
        with self._lock:
            leases = self._leases.get(outlived)
            if leases is None:
                leases = SharedLeases(self._etcd, self._layout, outlived + LEEWAY_SECONDS, clock=self._clock)
                self._leases[outlived] = leases
        return leases.lease()
