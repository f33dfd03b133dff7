"""Slowing down those who guess: only so many failed logins a minute, per account and per address.

Failures only are counted, in this replica's memory. A count never says whether an account exists. Memory is bounded by
what is counted, not by what callers name: names fall into a fixed number of buckets by a hash with a key of this
process, so that nobody can choose to share a bucket with somebody else.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import unquote

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from interceptors.errors import Reason, Refusal

__all__ = ["LoginThrottle", "address_of"]

_BUCKETS: Final = 1 << 16
_IPV6_SITE: Final = 64  # an IPv6 caller has at least as many addresses as a /64 holds


class LoginThrottle:
    """Counts failed logins.

    per_account, per_address  failures per minute; 0 for no limit
    """

    def __init__(self, *, per_account: int, per_address: int) -> None:
        # It counts every failure of the last minute; strategies that go by the clock's minutes forgive some in between.
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._limits = {
            "account": RateLimitItemPerMinute(per_account) if per_account else None,
            "address": RateLimitItemPerMinute(per_address) if per_address else None,
        }
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()

    @contextmanager
    def attempt(self, *, account: str, peer: str) -> Iterator[None]:
        """Surrounds the check of one login. `peer` is what `grpc.ServicerContext.peer()` says.

        Refusal RATE_LIMITED if there were too many failures: before the check, and after it too. So whoever sends a
        thousand guesses at once learns no more than the limit allows: the answers to the others are RATE_LIMITED,
        the right guess's among them. A failure is a Refusal CREDENTIAL_INVALID that leaves the block.
        """
        names = {"account": account, "address": address_of(peer)}
        counted = [(kind, self._bucket(kind, name)) for kind, name in names.items()]
        with self._lock:
            self._check(counted)
        try:
            yield
        except Refusal as refusal:
            if refusal.reason is Reason.CREDENTIAL_INVALID:
                with self._lock:
                    self._check(counted)
                    self._count(counted)
            raise
        with self._lock:
            self._check(counted)

    def _check(self, counted: list[tuple[str, str]]) -> None:
        for kind, bucket in counted:
            limit = self._limits[kind]
            if limit is not None and not self._limiter.test(limit, kind, bucket):
                raise Refusal(Reason.RATE_LIMITED, f"too many failed logins for this {kind}")

    def _count(self, counted: list[tuple[str, str]]) -> None:
        for kind, bucket in counted:
            limit = self._limits[kind]
            if limit is not None:
                self._limiter.hit(limit, kind, bucket)

    def _bucket(self, kind: str, name: str) -> str:
        digest = hashlib.blake2b(f"{kind}:{name}".encode(), key=self._key, digest_size=8).digest()
        return str(int.from_bytes(digest) % _BUCKETS)


def address_of(peer: str) -> str:
    """The address in a gRPC peer, without the port: an IPv4 address, an IPv6 /64, or the peer's kind, e.g. "unix"."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))
    return str(address)
