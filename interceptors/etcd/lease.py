"""A lease, and when to stop relying on it."""

from __future__ import annotations

import time
from typing import Final

from interceptors.etcd.client import EtcdClient

__all__ = ["KeptLease"]

_GOODBYE: Final = 1.5
"""Seconds. A process that leaves while etcd is away must be gone before it is killed; its leases end without it."""


class KeptLease:
    """A lease that its owner renews, about every third of its `ttl` (seconds). It starts no thread.

    Making one raises EtcdUnavailable if etcd does not answer.
    """

    def __init__(self, client: EtcdClient, ttl: int) -> None:
        self._client = client
        self.ttl: Final = ttl
        sent = time.monotonic()
        self.id: Final = client.grant(ttl)
        self._until = sent + ttl

    def renew(self) -> bool:
        """Renews the lease; False if it is gone, with all keys under it. EtcdUnavailable says neither."""
        sent = time.monotonic()
        remaining = self._client.keep_alive(self.id)
        # etcd may round a lease up (never down); who relies on it counts what was asked for.
        self._until = sent + min(remaining, self.ttl) if remaining > 0 else sent
        return remaining > 0

    @property
    def certain_until(self) -> float:
        """The time of `time.monotonic()` from which the lease is not certain any more."""
        return self._until

    def alive(self, monotonic: float) -> bool:
        """Whether the lease is certainly alive at this time of `time.monotonic()`.

        Counted from before the last good request was sent, so that etcd cannot have given it up earlier.
        """
        return monotonic < self._until

    def revoke(self) -> None:
        """Ends the lease and deletes the keys under it. From this call on it does not count as alive."""
        self._until = float("-inf")
        self._client.revoke_lease(self.id, timeout=_GOODBYE)
