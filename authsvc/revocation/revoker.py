"""Revoking: a new epoch for a scope, and the session's end where the scope is a session.

An epoch key must live as long as anything that it can kill, whichever replica issued that (see
authsvc.revocation.lifetimes), and then go. Its lease is shared with all that were put in the same stretch of time (see
authsvc.store.shared_leases).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from authsvc.revocation.lifetimes import longest_issued, read_in_force
from authsvc.settings import AuthSettings
from authsvc.store.records import FORMAT
from authsvc.store.shared_leases import LEEWAY, SharedLeases
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, EtcdUnavailable, LeaseNotFound, Put, Unchanged
from interceptors.keyspace import Layout, moved_beacon

__all__ = ["Revoker"]

_TRIES: Final = 3
_SESSION: Final = "sid/"


class Revoker:
    """Commits revocations. Thread-safe; every replica may do it. Every method may raise EtcdUnavailable."""

    def __init__(
        self, etcd: EtcdClient, layout: Layout, settings: AuthSettings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._clock = clock
        self._issued = longest_issued(settings)
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
        """Revokes what was issued to a scope up to now; the revision, which is the scope's new epoch.

        scope            from interceptors.keyspace. A session's record is deleted in the same commit
        actor, reason    for people; they are stored with the epoch
        extra_…          are part of the same commit; None if a condition does not hold, and nothing has changed then.
                         Among the operations may be the beacon's, of who wants to know what it held
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
        """Revokes several scopes in one commit, as `revoke` does one. At most 60: etcd takes 128 operations."""
        record = mesh_pb2.Epoch(format=FORMAT, reason=reason, actor=actor, revoked_at=stamp(self._clock()))
        value = record.SerializeToString()
        in_force = read_in_force(self._etcd, self._layout)
        for tries_left in range(_TRIES, 0, -1):
            longest = max(in_force.longest, self._issued)
            operations: list[Put | Delete] = []
            for scope in dict.fromkeys(scopes):  # etcd takes no key twice
                operations.append(Put(self._layout.epoch(scope), value, self._lease(scope, longest)))
                if scope.startswith(_SESSION):
                    operations.append(Delete(self._layout.sessions + scope.removeprefix(_SESSION)))
            operations += extra_operations
            if not any(operation.key == self._layout.beacon for operation in extra_operations):
                operations.append(moved_beacon(self._layout))
            try:
                revision = self._etcd.commit([*extra_conditions, in_force.unchanged], operations)
            except LeaseNotFound:
                # Somebody revoked a lease by hand, or etcd is another one than before. Nothing was committed.
                if tries_left == 1:
                    raise
                with self._lock:
                    self._leases.clear()
                continue
            if revision is not None:
                return revision
            before, in_force = in_force, read_in_force(self._etcd, self._layout)
            if in_force.unchanged == before.unchanged:
                return None  # so it was one of the caller's conditions
        raise EtcdUnavailable(f"nothing was revoked: lifetimes came into force {_TRIES} times meanwhile; try again")

    def _lease(self, scope: str, longest: int) -> int:
        """A lease for a scope's epoch. longest: seconds that what was issued, by whichever replica, is good for."""
        # A session that was revoked has no record: what is left of it is tokens, and what nodes have cached.
        outlived = longest if scope.startswith(_SESSION) else max(self._session_lifetime, longest)
        with self._lock:
            leases = self._leases.get(outlived)
            if leases is None:
                leases = SharedLeases(self._etcd, self._layout, outlived + LEEWAY, clock=self._clock)
                self._leases[outlived] = leases
        return leases.lease()
