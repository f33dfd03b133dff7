"""Passwords: argon2id (RFC 9106) in a pool that is bounded in both of its sizes.

A hash costs 64 MiB and tens of milliseconds of four threads. So only a few are made at once, only so many may wait, and
what is beyond that is refused at once: a flood of logins takes the login away for a while, never the memory or the
service. Checking a password of a user who does not exist costs the same hash as checking one that does.
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
"""RFC 9106 section 4, second recommendation: 3 passes over 64 MiB in 4 lanes. The first takes 2 GiB per login."""

_WAITING_PER_WORKER: Final = 16

_hashes: Final = Counter("credmesh_password_hashes", "Times that argon2id was computed.", ("purpose",))


def hash_password(password: str, parameters: argon2.Parameters = PARAMETERS) -> str:
    """The hash of a password in PHC string format. Computed here and now: for tools; servers use Passwords."""
    return argon2.PasswordHasher.from_parameters(parameters).hash(_prepared(password))


class Passwords:
    """Hashes and checks passwords.

    workers     how many are computed at once
    waiting     how many may wait for a worker; beyond it Refusal RATE_LIMITED. By default 16 per worker
    parameters  of new hashes. Old ones are checked with their own, and `outdated` tells them
    """

    def __init__(self, *, workers: int, waiting: int | None = None, parameters: argon2.Parameters = PARAMETERS) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="credmesh-password")
        self._places = threading.BoundedSemaphore(
            workers + (_WAITING_PER_WORKER * workers if waiting is None else waiting)
        )
        # For users who do not exist. Made now, so that the first of them does not wait twice.
        self._nobody = self._hasher.hash(secrets.token_bytes(32))

    def hash(self, password: str) -> str:
        """The hash to store, in PHC string format."""
        return self._run(lambda: self._hash(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is the one that was hashed.

        A password_hash of None, for a user who does not exist, is never right and costs the same. So does one that
        cannot be read: somebody wrote into etcd what is not ours.
        """
        return self._run(lambda: self._verify(password_hash, password))

    def outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than new ones are."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Ends the workers once what waits is done."""
        self._pool.shutdown()

    def _run(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise Refusal(Reason.RATE_LIMITED, "as many passwords are waiting to be checked as may wait")
        try:
            return self._pool.submit(work).result()
        finally:
            self._places.release()

    def _hash(self, password: str) -> str:
        _hashes.labels("store").inc()
        return self._hasher.hash(_prepared(password))

    def _verify(self, password_hash: str | None, password: str) -> bool:
        prepared = _prepared(password)
        if password_hash is not None:
            try:
                return self._matches(password_hash, prepared)
            except (InvalidHashError, VerificationError):
                # Nothing was computed, so what follows makes it cost what it costs for everybody.
                _log.error("a stored password hash is none of ours; set that user's password anew")
        self._matches(self._nobody, prepared)
        return False

    def _matches(self, password_hash: str, prepared: bytes) -> bool:
        try:
            right: bool = self._hasher.verify(password_hash, prepared)
        except VerifyMismatchError:
            right = False
        _hashes.labels("verify").inc()
        return right


def _prepared(password: str) -> bytes:
    # RFC 8265 section 4.2: the same characters may come composed or decomposed, depending on the keyboard's maker.
    return unicodedata.normalize("NFC", password).encode()
