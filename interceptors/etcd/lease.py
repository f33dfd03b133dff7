"""A lease, and until when it certainly exists."""

from __future__ import annotations

import time
from typing import Final

from interceptors.etcd.client import EtcdClient

__all__ = ["RenewableLease"]

_REVOKE_TIMEOUT_SECONDS: Final = 1.5
"""Short, since a process must end before it is killed, even while etcd does not answer. Its leases run out anyway."""


class RenewableLease:
    """A lease that its owner renews, about every third of `ttl` (seconds). It starts no thread.

    The constructor makes the lease. It raises EtcdUnavailable if etcd does not answer.
    """

    def __init__(self, client: EtcdClient, ttl: int) -> None:
        self._client = client
        self.ttl: Final = ttl
        sent = time.monotonic()
        self.id: Final = client.grant(ttl)
        self._until = sent + ttl

    def renew(self) -> bool:
        """Renews the lease. Returns False if it is gone with its keys; after EtcdUnavailable this is unknown."""
        sent = time.monotonic()
        remaining = self._client.keep_alive(self.id)
        # etcd may round the time to live up, never down. What counts is the requested time.
        self._until = sent + min(remaining, self.ttl) if remaining > 0 else sent
        return remaining > 0

    @property
    def certain_until(self) -> float:
        """The time of `time.monotonic()` until which the lease certainly exists."""
        return self._until

    def alive(self, monotonic: float) -> bool:
        """Whether the lease certainly exists at this time of `time.monotonic()`.

        The time to live is counted from before the last successful request was sent, so etcd cannot have ended the
        lease earlier.
        """
        return monotonic < self._until

    def revoke(self) -> None:
        """Ends the lease and deletes the keys under it. From this call on, `alive` is false."""
        self._until = float("-inf")
        self._client.revoke_lease(self.id, timeout=_REVOKE_TIMEOUT_SECONDS)
