"""Revoking: a new epoch for a scope, and the session's end where the scope is a session.

An epoch key must live as long as anything that it can kill, and then go. Its lease is shared with all that were put in
the same stretch of time: etcd expires leases slowly, so there must be few. How long a lease has still to live is never
reckoned by wall clocks: it was renewed at most one stretch ago by this process's monotonic clock, and it is longer than
what is needed by a stretch.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from authsvc.records import FORMAT
from authsvc.settings import AuthSettings
from authsvc.times import stamp
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import (
    CreatedAt,
    Delete,
    EtcdClient,
    EtcdUnavailable,
    LeaseNotFound,
    Put,
    Unchanged,
    moved_beacon,
)
from interceptors.etcd.layout import Layout

__all__ = ["LEEWAY", "Revocation", "SharedLeases"]

LEEWAY: Final = 360.0
"""Seconds that an epoch outlives what it kills: the most leeway that a node forgives (300), and clocks that differ."""

_SHORTEST_STRETCH: Final = 60.0
_STRETCHES: Final = 24
_TRIES: Final = 3
_SESSION: Final = "sid/"


class Revocation:
    """Commits revocations. Thread-safe; every replica may do it. Every method may raise EtcdUnavailable."""

    def __init__(
        self, etcd: EtcdClient, layout: Layout, settings: AuthSettings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._clock = clock
        # A session that was revoked has no record: what is left of it is tokens, and what nodes have cached.
        tokens = max(settings.token_lifetime, settings.resolve_ttl)
        self._token_leases = SharedLeases(etcd, layout, tokens + LEEWAY, clock=clock)
        self._session_leases = SharedLeases(etcd, layout, max(settings.session_lifetime, tokens) + LEEWAY, clock=clock)

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

        scope            from interceptors.etcd.layout. A session's record is deleted in the same commit
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
        for tries_left in range(_TRIES, 0, -1):
            operations: list[Put | Delete] = []
            for scope in dict.fromkeys(scopes):  # etcd takes no key twice
                operations.append(Put(self._layout.epoch(scope), value, self._leases(scope).lease()))
                if scope.startswith(_SESSION):
                    operations.append(Delete(self._layout.sessions + scope.removeprefix(_SESSION)))
            operations += extra_operations
            if not any(operation.key == self._layout.beacon for operation in extra_operations):
                operations.append(moved_beacon(self._layout))
            try:
                return self._etcd.commit(extra_conditions, operations)
            except LeaseNotFound:
                # Somebody revoked a lease by hand, or etcd is another one than before. Nothing was committed.
                if tries_left == 1:
                    raise
                self._token_leases.forget()
                self._session_leases.forget()
        raise AssertionError("the last try returns or raises")

    def _leases(self, scope: str) -> SharedLeases:
        return self._token_leases if scope.startswith(_SESSION) else self._session_leases


@dataclass(frozen=True, slots=True)
class _Lease:
    id: int
    bucket: int
    renewed_at: float  # monotonic seconds, before the renewal was sent


class SharedLeases:
    """Leases for keys that must live `needed` seconds at least: one for all that every replica puts in a stretch.

    The clock only says which stretch it is, so that replicas choose the same lease. If theirs differ, they share less.
    """

    def __init__(self, etcd: EtcdClient, layout: Layout, needed: float, *, clock: Callable[[], float]) -> None:
        self._etcd = etcd
        self._clock = clock
        self._stretch = max(_SHORTEST_STRETCH, needed / _STRETCHES)
        self._needed = needed
        self.ttl: Final = math.ceil(needed + self._stretch)
        self._name = f"{layout.prefix} {self.ttl}"
        self._lock = threading.Lock()
        self._held: _Lease | None = None

    def lease(self) -> int:
        """A lease that lives `needed` seconds from now at least. May raise EtcdUnavailable."""
        with self._lock:
            bucket = int(self._clock() // self._stretch)
            held = self._held
            now = time.monotonic()
            if held is None or held.bucket != bucket or now - held.renewed_at > self._stretch / 2:
                held = self._held = self._renewed(bucket, now)
            return held.id

    def forget(self) -> None:
        """Lets go of the lease, which turned out to be gone: it is granted anew when it is needed."""
        with self._lock:
            self._held = None

    def _renewed(self, bucket: int, now: float) -> _Lease:
        digest = hashlib.sha256(f"{self._name} {bucket}".encode()).digest()
        lease_id = int.from_bytes(digest[:8]) >> 1 or 1  # etcd's ids are int64, and 0 asks it to choose
        for _ in range(_TRIES):
            self._etcd.grant(self.ttl, lease_id)
            # It may be as old as the stretch, or older by a clock that is off: renewed, it has its whole life again.
            if self._etcd.keep_alive(lease_id) >= self._needed:
                return _Lease(lease_id, bucket, now)
        raise EtcdUnavailable(f"etcd lost lease {lease_id:x} {_TRIES} times right after granting it")
