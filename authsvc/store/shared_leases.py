"""Leases that many keys share. etcd expires leases slowly, about 1,000 a second, so there must be few.

Time is divided into intervals, and the keys that are put within one interval share a lease. No wall clock decides how
long a lease still lives: it was renewed at most half an interval ago by interceptors.clock, which cannot be set, and
its time to live exceeds the time that keys need by a whole interval.
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

__all__ = ["LEEWAY_SECONDS", "SharedLeases"]

LEEWAY_SECONDS: Final = 360.0
"""By how much an epoch outlives what it revokes: the largest leeway that a node may be set to (300), and clock skew."""

_MIN_INTERVAL_SECONDS: Final = 60.0
_INTERVALS_PER_LIFETIME: Final = 24
_MAX_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class _Lease:
    id: int
    interval: int
    renewed_at: float  # by interceptors.clock.ticks, before the renewal was sent


class SharedLeases:
    """Leases for keys that must live at least `needed` seconds: one lease for all replicas in each interval.

    clock: seconds since 1970; it only selects the interval. Replicas whose clocks differ share fewer leases. With None
    there is one interval for all time: the lease lives as long as any replica goes on calling `lease`.
    """

    def __init__(self, etcd: EtcdClient, layout: Layout, needed: float, *, clock: Callable[[], float] | None) -> None:
        self._etcd = etcd
        self._clock = clock
        self._interval_seconds = max(_MIN_INTERVAL_SECONDS, needed / _INTERVALS_PER_LIFETIME)
        self._needed = needed
        self.ttl: Final = math.ceil(needed + self._interval_seconds)
        self._name = f"{layout.prefix} {self.ttl}"
        if clock is None:
            self._name += " for all time"
        self._lock = threading.Lock()
        self._current: _Lease | None = None

    def lease(self) -> int:
        """Returns the id of a lease that lives at least `needed` seconds from now.

        Renews or grants the lease if need be. Raises EtcdUnavailable within two of etcd's timeouts.
        """
        # With etcd away each holder of the lock waits for a timeout. Without a limit on the wait for the lock, callers
        # would be served one after the other, each a timeout later than the one before.
        if not self._lock.acquire(timeout=self._etcd.settings.timeout):
            raise EtcdUnavailable("etcd does not answer the calls that asked for the same lease before")
        try:
            interval = 0 if self._clock is None else int(self._clock() // self._interval_seconds)
            lease = self._current
            now = ticks()
            if lease is None or lease.interval != interval or now - lease.renewed_at > self._interval_seconds / 2:
                lease = self._current = self._renew_or_grant(interval, now)
            return lease.id
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Forgets the lease, after etcd said that it does not exist. The next call of `lease` grants it again."""
        with self._lock:
            self._current = None

    def _renew_or_grant(self, interval: int, now: float) -> _Lease:
        digest = hashlib.sha256(f"{self._name} {interval}".encode()).digest()
        lease_id = int.from_bytes(digest[:8]) >> 1 or 1  # etcd's ids are int64, and 0 lets etcd choose
        for _ in range(_MAX_ATTEMPTS):
            # Another replica may have granted it at the begin of the interval; a renewal gives it its whole life again.
            # The renewal comes first, since an etcd whose quota is used up still renews leases, but grants none.
            if self._etcd.keep_alive(lease_id) >= self._needed:
                return _Lease(lease_id, interval, now)
            self._etcd.grant(self.ttl, lease_id)
        raise EtcdUnavailable(f"etcd lost lease {lease_id:x} {_MAX_ATTEMPTS} times right after granting it")
