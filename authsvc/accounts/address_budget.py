"""A budget per minute and address, for what a caller without a valid credential makes the auth service do.

It is kept in the memory of this replica. Memory is bounded: an address falls into one of a fixed number of buckets, by
a hash that is keyed per process. So a caller cannot choose addresses that share a bucket with another caller.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from authsvc.accounts.caller_address import network_of

__all__ = ["AddressBudget"]

_BUCKET_COUNT: Final = 1 << 16


class AddressBudget:
    """Counts by address. Thread-safe.

    per_minute: how much one address may use in 60 seconds; 0 for no limit
    """

    def __init__(self, per_minute: int) -> None:
        # A moving window counts all of the last 60 seconds. A fixed window would forget them at each full minute.
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._limit = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()

    def is_spent(self, address: str) -> bool:
        """Whether the address has used all of its budget."""
        if self._limit is None:
            return False
        with self._lock:
            return not self._limiter.test(self._limit, self._bucket(address))

    def take(self, address: str) -> bool:
        """Uses one of the address's budget. Returns False, and uses nothing, if all of it is used."""
        if self._limit is None:
            return True
        with self._lock:
            return self._limiter.hit(self._limit, self._bucket(address))

    def _bucket(self, address: str) -> str:
        digest = hashlib.blake2b(network_of(address).encode(), key=self._key, digest_size=8).digest()
        return str(int.from_bytes(digest) % _BUCKET_COUNT)
