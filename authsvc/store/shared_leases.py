"""Leases that many keys share: etcd expires leases slowly (about 1,000 a second), so there must be few.

How long a lease has still to live is never reckoned by wall clocks: it was renewed at most half a stretch ago, by a
clock of this process that nobody sets, and it is longer than what is needed by a whole stretch.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from interceptors.clock import ticks
from interceptors.etcd.client import EtcdClient, EtcdUnavailable
from interceptors.keyspace import Layout

__all__ = ["LEEWAY", "SharedLeases"]

LEEWAY: Final = 360.0
"""Seconds that an epoch outlives what it kills: the most leeway that a node forgives (300), and clocks that differ."""

_SHORTEST_STRETCH: Final = 60.0
_STRETCHES: Final = 24
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class _Lease:
    id: int
    bucket: int
    renewed_at: float  # seconds of interceptors.clock.ticks, before the renewal was sent


class SharedLeases:
    """Leases for keys that must live `needed` seconds at least: one for all that every replica puts in a stretch.

    The clock only says which stretch it is, so that replicas choose the same lease. If theirs differ, they share less.
    Without a clock there is one stretch for all time: a lease that lives on for as long as anybody asks for it.
    """

    def __init__(self, etcd: EtcdClient, layout: Layout, needed: float, *, clock: Callable[[], float] | None) -> None:
        self._etcd = etcd
        self._clock = clock
        self._stretch = max(_SHORTEST_STRETCH, needed / _STRETCHES)
        self._needed = needed
        self.ttl: Final = math.ceil(needed + self._stretch)
        self._name = f"{layout.prefix} {self.ttl}"
        if clock is None:
            self._name += " for all time"
        self._lock = threading.Lock()
        self._held: _Lease | None = None

    def lease(self) -> int:
        """A lease that lives `needed` seconds from now at least. EtcdUnavailable within two of etcd's timeouts."""
        # With etcd away everybody would wait for everybody before him, each of whom has a whole timeout to try.
        if not self._lock.acquire(timeout=self._etcd.settings.timeout):
            raise EtcdUnavailable("etcd does not answer those who asked for the same lease before")
        try:
            bucket = 0 if self._clock is None else int(self._clock() // self._stretch)
            held = self._held
            now = ticks()
            if held is None or held.bucket != bucket or now - held.renewed_at > self._stretch / 2:
                held = self._held = self._renewed(bucket, now)
            return held.id
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Lets go of the lease, which turned out to be gone: it is granted anew when it is needed."""
        with self._lock:
            self._held = None

    def _renewed(self, bucket: int, now: float) -> _Lease:
        digest = hashlib.sha256(f"{self._name} {bucket}".encode()).digest()
        lease_id = int.from_bytes(digest[:8]) >> 1 or 1  # etcd's ids are int64, and 0 asks it to choose
        for _ in range(_TRIES):
            # It may be as old as the stretch, or older by a clock that is off: renewed, it has its whole life again.
            # Renewed first and granted if need be, since a full etcd still renews leases, and grants none.
            if self._etcd.keep_alive(lease_id) >= self._needed:
                return _Lease(lease_id, bucket, now)
            self._etcd.grant(self.ttl, lease_id)
        raise EtcdUnavailable(f"etcd lost lease {lease_id:x} {_TRIES} times right after granting it")
