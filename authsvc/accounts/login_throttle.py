"""Limits failed logins per minute, by account and by address, to slow down guessing.

Only failures are counted, in the memory of this replica. A count does not reveal whether an account exists. Memory is
bounded: a name falls into one of a fixed number of buckets, by a hash that is keyed per process. So a caller cannot
choose names that share a bucket with another account.
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

_BUCKET_COUNT: Final = 1 << 16
_IPV6_PREFIX_BITS: Final = 64  # one IPv6 caller usually controls a whole /64


class LoginThrottle:
    """Counts failed logins.

    per_account, per_address  failures per minute; 0 for no limit
    """

    def __init__(self, *, per_account: int, per_address: int) -> None:
        # A moving window counts every failure of the last 60 seconds. A fixed window would forget them at each full
        # minute.
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._limits = {
            "account": RateLimitItemPerMinute(per_account) if per_account else None,
            "address": RateLimitItemPerMinute(per_address) if per_address else None,
        }
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()

    @contextmanager
    def attempt(self, *, account: str, peer: str) -> Iterator[None]:
        """Surrounds the check of one login. A Refusal CREDENTIAL_INVALID that leaves the block counts as a failure.

        peer: as returned by `grpc.ServicerContext.peer()`.

        Refusal RATE_LIMITED if there were too many failures, before the check and again after it. So an attacker who
        sends a thousand guesses at once gets answers to as many as the limit allows, and RATE_LIMITED to the others,
        even to the right guess.
        """
        names = {"account": account, "address": address_of(peer)}
        buckets = [(kind, self._bucket(kind, name)) for kind, name in names.items()]
        with self._lock:
            self._refuse_if_exceeded(buckets)
        try:
            yield
        except Refusal as refusal:
            if refusal.reason is Reason.CREDENTIAL_INVALID:
                with self._lock:
                    self._refuse_if_exceeded(buckets)
                    self._count_failure(buckets)
            raise
        with self._lock:
            self._refuse_if_exceeded(buckets)

    def _refuse_if_exceeded(self, buckets: list[tuple[str, str]]) -> None:
        for kind, bucket in buckets:
            limit = self._limits[kind]
            if limit is not None and not self._limiter.test(limit, kind, bucket):
                raise Refusal(Reason.RATE_LIMITED, f"too many failed logins for this {kind}")

    def _count_failure(self, buckets: list[tuple[str, str]]) -> None:
        for kind, bucket in buckets:
            limit = self._limits[kind]
            if limit is not None:
                self._limiter.hit(limit, kind, bucket)

    def _bucket(self, kind: str, name: str) -> str:
        digest = hashlib.blake2b(f"{kind}:{name}".encode(), key=self._key, digest_size=8).digest()
        return str(int.from_bytes(digest) % _BUCKET_COUNT)


def address_of(peer: str) -> str:
    """The address of a gRPC peer, without the port: an IPv4 address, an IPv6 /64, or the transport, such as "unix"."""
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
        return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))
    return str(address)
