"""Slows down the guessing of passwords.

Failures count by account and address together: each one above a limit delays the next attempt longer. So a stranger
cannot keep a user out who signs in from another address. Failures also count by address over all accounts, against an
attacker who tries one password on many users.

Only users are throttled. A client's secret has 256 random bits, so guessing it is hopeless, and its failures must not
keep the right secret out.

Failures are counted in the memory of this replica. A count does not reveal whether an account exists.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from authsvc.accounts.address_budget import AddressBudget
from authsvc.accounts.caller_address import network_of
from authsvc.errors import RateLimited
from interceptors.errors import Reason, Refusal

__all__ = ["LoginThrottle", "delay_seconds"]

_FIRST_DELAY_SECONDS: Final = 1.0
_MAX_DELAY_SECONDS: Final = 900.0
_FORGET_AFTER_SECONDS: Final = 86_400.0
_MAX_REMEMBERED_PAIRS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class _Failures:
    """The failed logins of an account from an address: how many, and when the last one was, by the clock."""

    count: int
    last_at: float


class LoginThrottle:
    """Counts users' failed logins. Thread-safe.

    per_account  failures of an account from one address before each further one has to wait; 0 for no limit
    per_address  failures from one address per minute, over all accounts; 0 for no limit
    clock        seconds that never go back
    """

    def __init__(self, *, per_account: int, per_address: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_account = per_account
        self._addresses = AddressBudget(per_address)
        self._clock = clock
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()
        # The pair that failed last is last. Memory is bounded: the pair that failed first is forgotten first.
        self._failures: OrderedDict[bytes, _Failures] = OrderedDict()

    @contextmanager
    def attempt(self, *, account: str, address: str) -> Iterator[None]:
        """Surrounds the check of one password. A Refusal CREDENTIAL_INVALID that leaves the block counts as a failure.

        address: the caller's, as CallerAddresses finds it.

        RateLimited if there were too many failures, before the check and again after it. So an attacker who
        sends a thousand guesses at once gets answers to as many as the limit allows, and RATE_LIMITED to the others,
        even to the right guess.
        """
        pair = hashlib.blake2b(f"{network_of(address)} {account}".encode(), key=self._key, digest_size=16).digest()
        with self._lock:
            self._refuse_if_too_many(pair, address)
        try:
            yield
        except Refusal as refusal:
            if refusal.reason is Reason.CREDENTIAL_INVALID:
                with self._lock:
                    self._refuse_if_too_many(pair, address)
                    self._count_failure(pair, address)
            raise
        with self._lock:
            self._refuse_if_too_many(pair, address)
            self._failures.pop(pair, None)

    def _refuse_if_too_many(self, pair: bytes, address: str) -> None:
        failures = self._failures.get(pair)
        if failures is not None:
            since = self._clock() - failures.last_at
            if since >= _FORGET_AFTER_SECONDS:
                del self._failures[pair]
            elif since < (delay := delay_seconds(failures.count, self._per_account)):
                raise RateLimited(
                    "too many failed logins of this account from this address; "
                    f"try again in {math.ceil(delay - since)} s, or from another address"
                )
        if self._addresses.is_spent(address):
            raise RateLimited("too many failed logins from this address; try again in a minute")

    def _count_failure(self, pair: bytes, address: str) -> None:
        self._addresses.take(address)
        before = self._failures.pop(pair, None)
        self._failures[pair] = _Failures(1 if before is None else before.count + 1, self._clock())
        if len(self._failures) > _MAX_REMEMBERED_PAIRS:
            self._failures.popitem(last=False)


def delay_seconds(failures: int, limit: int) -> float:
    """How long the next attempt has to wait after so many failures. From the limit on, each one doubles it.

    limit: 0 for no limit
    """
    if limit == 0 or failures < limit:
        return 0.0
    doublings = min(failures - limit, 16)
    return min(_FIRST_DELAY_SECONDS * (1 << doublings), _MAX_DELAY_SECONDS)
