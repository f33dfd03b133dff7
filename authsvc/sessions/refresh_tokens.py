"""The rules of refresh tokens (RFC 9700 section 4.14): single use, a grace window for retries, an end for reuse. Pure.

A refresh token's secret is 32 random bytes: 8 that all tokens of a session have in common (its family) and 24 that are
new each time. The record holds SHA-256 of the current secret and of the family, never a secret. So whoever shows the
family held a token of this session, now or once; and whoever only knows the session's id can end nothing by guessing.

What a used token was traded for lies in the record too, sealed under a key that only the used token's secret gives. A
retry within the grace window opens it, and, if the successor was itself used meanwhile, the next, up to the token that
is current: all who share a session end up with the same one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from authsvc.sessions.grants import Grant, Holder, narrow
from authsvc.store.timestamps import seconds, stamp
from credmesh.store.v1 import auth_pb2

__all__ = [
    "FAMILY_BYTES",
    "MAX_USED",
    "Current",
    "Ending",
    "Forged",
    "Retried",
    "Reused",
    "Verdict",
    "begin_family",
    "is_session_secret",
    "judge_refresh_token",
    "refreshed",
    "review",
    "succeed",
]

FAMILY_BYTES: Final = 8
MAX_USED: Final = 32
"""So many used tokens are remembered for retries. Who refreshes more often than that within one grace window and then
goes back to the first is treated as a thief."""

_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"credmesh refresh successor 1"


@dataclass(frozen=True, slots=True)
class Current:
    """It is the current refresh token: trade it for the next."""


@dataclass(frozen=True, slots=True)
class Retried:
    """It was used a moment ago: give the current token again, whose secret this is, and use nothing up."""

    secret: bytes

    def __repr__(self) -> str:
        return "Retried()"  # never the secret


@dataclass(frozen=True, slots=True)
class Reused:
    """It was used before, and not a moment ago: two parties hold tokens of this session. End the session."""


@dataclass(frozen=True, slots=True)
class Forged:
    """It was never a token of this session: refuse it, and leave the session alone."""


Verdict = Current | Retried | Reused | Forged


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session cannot go on.

    expired  it timed out (an answer of CREDENTIAL_EXPIRED); otherwise it was revoked (CREDENTIAL_REVOKED)
    why      for the audit trail
    """

    expired: bool
    why: str


def judge_refresh_token(record: auth_pb2.SessionRecord, secret: bytes, *, now: float, grace: float) -> Verdict:
    """Judges a refresh token's secret by its session's record. Times are in seconds since 1970, grace in seconds.

    Whether the session itself may go on is another question: see `review`.
    """
    if record.kind != auth_pb2.SessionRecord.KIND_TOKENS:
        return Forged()
    digest = _sha256(secret)
    if hmac.compare_digest(digest, record.secret_sha256):
        return Current()
    if not hmac.compare_digest(_sha256(secret[:FAMILY_BYTES]), record.family_sha256):
        return Forged()
    used = _find(record, digest)
    if used is None or now >= seconds(used.used_at) + grace:
        return Reused()
    current = _follow(record, secret, used)
    # A chain that cannot be followed was cut by MAX_USED or by another replica's clock, or altered: doubt.
    return Reused() if current is None else Retried(current)


def is_session_secret(record: auth_pb2.SessionRecord, secret_sha256: bytes) -> bool:
    """Whether this is the hash of an opaque session's secret."""
    if record.kind != auth_pb2.SessionRecord.KIND_OPAQUE:
        return False
    return hmac.compare_digest(record.secret_sha256, secret_sha256)


def review(
    record: auth_pb2.SessionRecord, *, now: float, epochs: Mapping[str, int], holder: Holder | None
) -> Grant | Ending:
    """What a session may do from here and now on, or why it ends.

    epochs  of the scopes that the session belongs to: the revision of each one's last revocation
    holder  the user or client as it is now; None if it was deleted
    """
    for scope in sorted(epochs):
        if epochs[scope] > record.epoch:
            return Ending(expired=False, why=f"scope {scope} was revoked")
    if now >= seconds(record.expires_at):
        return Ending(expired=True, why="the session's lifetime is over")
    if now >= seconds(record.idle_expires_at):
        return Ending(expired=True, why="the session was idle for too long")
    if holder is None:
        return Ending(expired=False, why="the account was deleted")
    left = narrow(record, holder)
    if not left.audiences:
        return Ending(expired=False, why="the account holds none of the session's audiences any more")
    return left


def begin_family(secret: bytes) -> bytes:
    """What the record holds of the family of a session's first refresh token."""
    return _sha256(secret[:FAMILY_BYTES])


def succeed(secret: bytes, random: bytes) -> bytes:
    """The secret that follows `secret`; `random` is as long as it, of which as much is used as is to be new."""
    return secret[:FAMILY_BYTES] + random[FAMILY_BYTES:]


def refreshed(
    record: auth_pb2.SessionRecord,
    secret: bytes,
    successor: bytes,
    *,
    now: float,
    grace: float,
    idle: float,
    epoch: int,
    granted: Holder,
    nonce: bytes,
) -> auth_pb2.SessionRecord:
    """The session's record after its current token was traded for `successor`.

    idle     seconds until the session times out unless it is seen again
    epoch    the revision at which none of its scopes was revoked; the transaction that stores this record proves it
    granted  what the session may do from now on
    nonce    12 random bytes
    """
    after = auth_pb2.SessionRecord()
    after.CopyFrom(record)
    kept = [used for used in record.used if now < seconds(used.used_at) + grace]
    del after.used[:]
    after.used.extend(kept[-(MAX_USED - 1) :])
    after.used.append(
        auth_pb2.UsedRefreshToken(
            secret_sha256=_sha256(secret),
            used_at=stamp(now),
            sealed_successor=nonce + _cipher(record.session_id, secret).encrypt(nonce, successor, _PURPOSE),
        )
    )
    after.secret_sha256 = _sha256(successor)
    after.epoch = epoch
    after.last_seen_at.CopyFrom(stamp(now))
    after.idle_expires_at.CopyFrom(stamp(min(now + idle, seconds(record.expires_at))))
    after.scopes[:] = granted.scopes
    after.audiences[:] = granted.audiences
    return after


def _find(record: auth_pb2.SessionRecord, digest: bytes) -> auth_pb2.UsedRefreshToken | None:
    return next((used for used in record.used if hmac.compare_digest(used.secret_sha256, digest)), None)


def _follow(record: auth_pb2.SessionRecord, secret: bytes, used: auth_pb2.UsedRefreshToken) -> bytes | None:
    for _ in range(len(record.used)):
        sealed = used.sealed_successor
        try:
            secret = _cipher(record.session_id, secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _PURPOSE)
        except (InvalidTag, ValueError):
            return None
        digest = _sha256(secret)
        if hmac.compare_digest(digest, record.secret_sha256):
            return secret
        following = _find(record, digest)
        if following is None:
            return None
        used = following
    return None


def _cipher(session_id: str, secret: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=session_id.encode(), info=_PURPOSE).derive(secret))


def _sha256(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
