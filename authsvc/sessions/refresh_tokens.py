"""The rules of refresh tokens (RFC 9700 section 4.14): single use, a grace window for retries, an end for reuse. Pure.

`evaluate_session` and `is_session_secret` are rules of all sessions, opaque ones too.

A refresh token's secret has 32 random bytes. The first 8 are the session's family, which all its tokens share; the
other 24 are new in each token. The record holds the SHA-256 of the current secret and of the family, and no secret. So
a token with the right family was issued for this session at some time, and a caller who knows only the session id
cannot end the session by guessing.

The record also holds the successor of each used token, sealed under a key that is derived from the used token's secret.
A retry within the grace window opens it. If that successor was used meanwhile too, its secret opens the next one, up to
the current token. So all parties that share a session end up with the same token.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from authsvc.sessions.grants import Entitlements, Grant, narrow_grant
from authsvc.store.timestamps import seconds, stamp
from credmesh.store.v1 import auth_pb2

__all__ = [
    "FAMILY_BYTES",
    "MAX_USED_TOKENS",
    "Current",
    "Forged",
    "Retried",
    "Reused",
    "SessionEnd",
    "Verdict",
    "evaluate_session",
    "family_digest",
    "is_current_refresh_token",
    "is_session_secret",
    "judge_refresh_token",
    "record_after_refresh",
    "successor_secret",
]

FAMILY_BYTES: Final = 8
MAX_USED_TOKENS: Final = 32
"""How many used tokens a record keeps for retries. If a session is refreshed more often within one grace window, a
retry with the oldest token counts as reuse.
"""

_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"credmesh refresh successor 1"


@dataclass(frozen=True, slots=True)
class Current:
    """The token is the session's current one: exchange it for its successor."""


@dataclass(frozen=True, slots=True)
class Retried:
    """The token was used within the grace window: answer with the current token again, and change nothing.

    secret: that of the current token.
    """

    secret: bytes

    def __repr__(self) -> str:
        return "Retried()"  # never the secret


@dataclass(frozen=True, slots=True)
class Reused:
    """The token was used before the grace window: two parties hold tokens of this session. End the session."""


@dataclass(frozen=True, slots=True)
class Forged:
    """The token was never issued for this session: refuse it, and do not end the session."""


Verdict = Current | Retried | Reused | Forged


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """Why a session ends.

    expired  it timed out (CREDENTIAL_EXPIRED); otherwise it was revoked (CREDENTIAL_REVOKED)
    why      for the audit trail
    """

    expired: bool
    why: str


def judge_refresh_token(record: auth_pb2.SessionRecord, secret: bytes, *, now: float, grace: float) -> Verdict:
    """Judges the secret of a refresh token, given its session's record. Times are seconds since 1970, grace is seconds.

    It does not tell whether the session itself is still valid; `evaluate_session` does.
    """
    if record.kind != auth_pb2.SessionRecord.KIND_TOKENS:
        return Forged()
    if is_current_refresh_token(record, secret):
        return Current()
    digest = _sha256(secret)
    if not hmac.compare_digest(_sha256(secret[:FAMILY_BYTES]), record.family_sha256):
        return Forged()
    used = _find_used(record, digest)
    if used is None or now >= seconds(used.used_at) + grace:
        return Reused()
    current = _open_successors(record, secret, used)
    # A chain of successors that breaks off was cut by MAX_USED_TOKENS or by the clock of another replica, or the record
    # was altered. In doubt the token counts as reused.
    return Reused() if current is None else Retried(current)


def is_current_refresh_token(record: auth_pb2.SessionRecord, secret: bytes) -> bool:
    """Whether this is the secret of the session's current refresh token."""
    if record.kind != auth_pb2.SessionRecord.KIND_TOKENS:
        return False
    return hmac.compare_digest(_sha256(secret), record.secret_sha256)


def is_session_secret(record: auth_pb2.SessionRecord, secret_sha256: bytes) -> bool:
    """Whether this is the hash of an opaque session's secret."""
    if record.kind != auth_pb2.SessionRecord.KIND_OPAQUE:
        return False
    return hmac.compare_digest(record.secret_sha256, secret_sha256)


def evaluate_session(
    record: auth_pb2.SessionRecord, *, now: float, epochs: Mapping[str, int], account: Entitlements | None
) -> Grant | SessionEnd:
    """Returns what the session's next credential is granted, or why the session ends.

    epochs   those of the session's scopes, by scope
    account  the user or client as it is now; None if it was deleted
    """
    for scope in sorted(epochs):
        if epochs[scope] > record.epoch:
            return SessionEnd(expired=False, why=f"scope {scope} was revoked")
    if now >= seconds(record.expires_at):
        return SessionEnd(expired=True, why="the session's lifetime is over")
    if now >= seconds(record.idle_expires_at):
        return SessionEnd(expired=True, why="the session was idle for too long")
    if account is None:
        return SessionEnd(expired=False, why="the account was deleted")
    granted = narrow_grant(record, account)
    if not granted.audiences:
        return SessionEnd(expired=False, why="the account holds none of the session's audiences any more")
    return granted


def family_digest(secret: bytes) -> bytes:
    """The SHA-256 of the family of a refresh token's secret."""
    return _sha256(secret[:FAMILY_BYTES])


def successor_secret(secret: bytes, random: bytes) -> bytes:
    """The secret of the successor of a refresh token: its family, then new random bytes.

    random: as many bytes as the secret has.
    """
    return secret[:FAMILY_BYTES] + random[FAMILY_BYTES:]


def record_after_refresh(
    record: auth_pb2.SessionRecord,
    secret: bytes,
    successor: bytes,
    *,
    now: float,
    grace: float,
    idle: float,
    epoch: int,
    granted: Entitlements,
    nonce: bytes,
) -> auth_pb2.SessionRecord:
    """The session's record after its current token was exchanged for its successor.

    secret     that of the current token
    successor  the secret of its successor
    idle       seconds until the session times out if it is not used again
    epoch      a revision at which no scope of the session was revoked. The transaction that stores the record proves it
    granted    the session's scopes and audiences from now on
    nonce      12 random bytes
    """
    after = auth_pb2.SessionRecord()
    after.CopyFrom(record)
    # The used tokens are in the order of their use, so those whose grace window is over come first.
    expired = itertools.takewhile(lambda used: now >= seconds(used.used_at) + grace, record.used)
    dropped = max(sum(1 for _ in expired), len(record.used) - (MAX_USED_TOKENS - 1))
    if dropped > 0:
        del after.used[:dropped]
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


def _find_used(record: auth_pb2.SessionRecord, digest: bytes) -> auth_pb2.UsedRefreshToken | None:
    return next((used for used in record.used if hmac.compare_digest(used.secret_sha256, digest)), None)


def _open_successors(record: auth_pb2.SessionRecord, secret: bytes, used: auth_pb2.UsedRefreshToken) -> bytes | None:
    """Opens the chain of successors of a used token.

    Returns the current token's secret; None if the chain breaks off.
    """
    for _ in range(len(record.used)):
        sealed = used.sealed_successor
        try:
            secret = _cipher(record.session_id, secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _PURPOSE)
        except (InvalidTag, ValueError):
            return None
        digest = _sha256(secret)
        if hmac.compare_digest(digest, record.secret_sha256):
            return secret
        successor = _find_used(record, digest)
        if successor is None:
            return None
        used = successor
    return None


def _cipher(session_id: str, secret: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=session_id.encode(), info=_PURPOSE).derive(secret))


def _sha256(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
