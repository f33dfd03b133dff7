"""Hashing and checking passwords: argon2id (RFC 9106) in a bounded pool.

A hash costs 64 MiB and tens of milliseconds of four threads. So only a few are computed at once, a bounded number may
wait, and further ones are refused. A flood of logins can only delay other logins; it exhausts neither the memory nor
the service. Checking the password of a user who does not exist costs a hash too, so timing does not reveal who exists.
"""

from __future__ import annotations

import logging
import secrets
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from prometheus_client import Counter

from interceptors.errors import Reason, Refusal

__all__ = ["PARAMETERS", "Passwords", "hash_password"]

_log: Final = logging.getLogger("credmesh.accounts")

T = TypeVar("T")

PARAMETERS: Final = argon2.profiles.RFC_9106_LOW_MEMORY
"""RFC 9106 section 4, second recommendation: 3 passes over 64 MiB in 4 lanes. The first one takes 2 GiB a login."""

_MAX_WAITING_PER_WORKER: Final = 16

_hashes: Final = Counter("credmesh_password_hashes", "Times that argon2id was computed.", ("purpose",))


def hash_password(password: str, parameters: argon2.Parameters = PARAMETERS) -> str:
    """The hash of a password in PHC string format, computed in the calling thread. For tools; servers use Passwords."""
    return argon2.PasswordHasher.from_parameters(parameters).hash(_normalized(password))


class Passwords:
    """Hashes and checks passwords in a pool of threads.

    workers      how many hashes are computed at once
    max_waiting  how many may wait for a worker; others raise Refusal RATE_LIMITED. By default 16 per worker
    parameters   of new hashes. An older hash is checked with its own, and `outdated` recognizes it
    """

    def __init__(
        self, *, workers: int, max_waiting: int | None = None, parameters: argon2.Parameters = PARAMETERS
    ) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="credmesh-password")
        self._slots = threading.BoundedSemaphore(
            workers + (_MAX_WAITING_PER_WORKER * workers if max_waiting is None else max_waiting)
        )
        # Checked in place of the hash of a user who does not exist. Computed now, so that the first such check costs no
        # more than the others.
        self._dummy_hash = self._hasher.hash(secrets.token_bytes(32))

    def hash(self, password: str) -> str:
        """Returns the hash to store, in PHC string format."""
        return self._run(lambda: self._hash(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password matches the hash.

        A password_hash of None, for a user who does not exist, never matches. Neither does a hash that cannot be read.
        Both cost the same as a check.
        """
        return self._run(lambda: self._verify(password_hash, password))

    def outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than new hashes are."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Ends the workers after the waiting hashes are computed."""
        self._pool.shutdown()

    def _run(self, work: Callable[[], T]) -> T:
        if not self._slots.acquire(blocking=False):
            raise Refusal(Reason.RATE_LIMITED, "too many passwords are waiting to be checked; try again later")
        try:
            return self._pool.submit(work).result()
        finally:
            self._slots.release()

    def _hash(self, password: str) -> str:
        _hashes.labels("store").inc()
        return self._hasher.hash(_normalized(password))

    def _verify(self, password_hash: str | None, password: str) -> bool:
        normalized = _normalized(password)
        if password_hash is not None:
            try:
                return self._matches(password_hash, normalized)
            except (InvalidHashError, VerificationError):
                # No hash was computed, so the check of the dummy hash below makes up for the cost.
                _log.error("a stored password hash cannot be read; set that user's password again")
        self._matches(self._dummy_hash, normalized)
        return False

    def _matches(self, password_hash: str, normalized: bytes) -> bool:
        try:
            matches: bool = self._hasher.verify(password_hash, normalized)
        except VerifyMismatchError:
            matches = False
        _hashes.labels("verify").inc()
        return matches


def _normalized(password: str) -> bytes:
    # RFC 8265 section 4.2: keyboards differ in whether they send a character composed or decomposed.
    return unicodedata.normalize("NFC", password).encode()
