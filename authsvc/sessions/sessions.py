"""Refreshes, resolves and ends sessions. authsvc.sessions.refresh_tokens judges refresh tokens."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from authsvc.audit import audit
from authsvc.revocation.revoker import Revoker
from authsvc.sessions.grants import Grant
from authsvc.sessions.issuer import AccessToken, Issuer, credentials_message
from authsvc.sessions.preconditions import (
    IssuancePreconditions,
    NoSigningKey,
    PreconditionsChanged,
    SessionMissing,
    conditions_since_epoch,
    read_session,
    retry_on_change,
)
from authsvc.sessions.refresh_tokens import (
    Current,
    Forged,
    Retried,
    Reused,
    SessionEnd,
    Verdict,
    evaluate_session,
    is_current_refresh_token,
    is_session_secret,
    judge_refresh_token,
    record_after_refresh,
    successor_secret,
)
from authsvc.settings import AuthSettings
from authsvc.store.timestamps import duration, seconds, stamp
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.caller import Caller
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, EtcdUnavailable, Put, Transaction, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import key_scope, session_scope
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from interceptors.verification.verifier import revocation_scopes

__all__ = ["LocalSessionResolver", "Sessions", "session_identity"]

_AUTH_SERVICE: Final = "auth"
"""The actor of an end that no caller asked for."""

_NONCE_BYTES: Final = 12

# A node resolves an opaque session that is in use at least four times within the idle timeout, and last_seen_at is
# written only after a quarter of it. So a session in use never times out, and one write serves many resolutions.
_LAST_SEEN_FRACTION: Final = 0.25

Record = store_pb2.SessionRecord


class KnownSessions(Protocol):
    """The sessions that this replica knows without a read: a SessionDirectory."""

    def find(self, session_id: str) -> tuple[bytes, int] | None:
        """The record of a live session and the record's revision; None if no such session is known."""
        ...

    def record_commit(self, record: Record, value: bytes, revision: int) -> None:
        """Records a change of a session that this replica has committed. value: the record's bytes."""
        ...


class Sessions:
    """The sessions in etcd. Thread-safe; any replica may change them.

    Every method may raise EtcdUnavailable, and Refusal MESH_NOT_READY if a session's preconditions keep changing.

    directory  the replica's directory of sessions. With it most refreshes need no read of etcd
    clock      seconds since 1970. It decides on timeouts and the grace window, never on revocation
    """

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        issuer: Issuer,
        revocation: Revoker,
        settings: AuthSettings,
        directory: KnownSessions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._issuer = issuer
        self._revocation = revocation
        self._settings = settings
        self._directory = directory
        self._clock = clock
        self._signing = _SigningRecord("", 0)  # as last read; a commit that relies on it compares its revision

    def refresh(self, token: OpaqueToken) -> tuple[auth_pb2.Credentials, str]:
        """Exchanges a refresh token for the next credentials. Returns them, and their subject.

        Refusal CREDENTIAL_INVALID if no session with a record has issued the token, also after the session was ended;
        CREDENTIAL_REVOKED if the session ends now because a scope was revoked or the token was reused;
        CREDENTIAL_EXPIRED if it ends now because it timed out. After EtcdUnavailable the token may be used up;
        a retry within the grace window gets its successor.
        """
        refreshed = self._refresh_known_session(token)
        return retry_on_change(lambda: self._refresh(token)) if refreshed is None else refreshed

    def knows(self, token: OpaqueToken) -> bool:
        """Whether a live session has issued a refresh or session token, as far as this replica knows without a read.

        The directory learns of a session some milliseconds after its login at another replica.
        """
        known = None if self._directory is None else self._directory.find(token.session_id)
        if known is None:
            return False
        return not isinstance(self._judge(Record.FromString(known[0]), token, self._clock()), Forged)

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """Returns the identity behind an opaque session token, or why the token is refused."""
        try:
            return retry_on_change(lambda: self._resolve(request))
        except Refusal as refusal:
            if refusal.reason not in (Reason.CREDENTIAL_INVALID, Reason.CREDENTIAL_EXPIRED, Reason.CREDENTIAL_REVOKED):
                raise
            return auth_pb2.ResolveSessionResponse(refusal=refusal.reason.name)

    def accepted_session(self, token: OpaqueToken) -> tuple[Record, Grant]:
        """Returns the session of a refresh or session token that would be accepted now, and what it is granted now.

        Changes nothing. Refusal as in `refresh` and `resolve`.
        """
        now = self._clock()
        record, preconditions, verdict = self._read_and_judge(token, now)
        if isinstance(verdict, Reused):
            raise Refusal(Reason.CREDENTIAL_REVOKED, "the refresh token was used before")
        granted = evaluate_session(record, now=now, epochs=preconditions.epochs, account=preconditions.account)
        if isinstance(granted, SessionEnd):
            raise _refusal(granted)
        return record, granted

    def refuse_if_revoked(self, caller: Caller, kid: str) -> None:
        """Refusal CREDENTIAL_REVOKED if a verified token was revoked, as of a linearizable read.

        kid: that of the key which signed the token.
        """
        epochs = self._etcd.read(*(self._layout.epoch(scope) for scope in revocation_scopes(caller, kid))).values
        # An attacker who has a revoked key may claim any epoch, so the epoch of the key's scope always revokes.
        if self._layout.epoch(key_scope(kid)) in epochs or any(
            stored.mod_revision > caller.epoch for stored in epochs.values()
        ):
            raise Refusal(Reason.CREDENTIAL_REVOKED, "a scope of the token was revoked a moment ago")

    def logout(self, token: OpaqueToken) -> tuple[int, str]:
        """Ends the session that has issued a refresh or session token, used or not. Returns the revision and subject.

        The revision is 0 if there is no session to end, which is no error (RFC 7009 section 2.2).
        """
        try:
            record, preconditions, _ = self._read_and_judge(token, self._clock())
        except Refusal as refusal:
            if refusal.reason is Reason.MESH_NOT_READY:
                raise
            return 0, ""
        revision = self._end(
            record, [CreatedAt(self._key(record), preconditions.session_created)], record.subject, "logout"
        )
        return revision or 0, record.subject

    def end(
        self, session_id: str, *, actor: str, reason: str, extra_operations: Sequence[Put | Delete] = ()
    ) -> int | None:
        """Ends a session: one commit deletes its record and puts its epoch. Returns the revision.

        Returns None if there is no such session. extra_operations are part of the same commit.
        """
        key = self._layout.session(session_id)
        stored = self._etcd.read(key).values.get(key)
        if stored is None:
            return None
        # The session ends whatever changes its record meanwhile, so only the record's existence is compared.
        return self._revocation.revoke(
            session_scope(session_id),
            actor=actor,
            reason=reason,
            extra_conditions=[CreatedAt(key, stored.create_revision)],
            extra_operations=extra_operations,
        )

    def _refresh_known_session(self, token: OpaqueToken) -> tuple[auth_pb2.Credentials, str] | None:
        """Refreshes a session whose record the directory has, in one transaction and without a read.

        The directory's record may be old. So only a verdict of Current is acted on, and the transaction compares
        everything that the decision rests on: the record's revision, that nothing has changed since the record's epoch,
        and that the same key still signs. docs/reliability.md has the proof, under "A refresh in one transaction".

        Returns None if the session has to be read, and nothing has changed then.
        """
        known = None if self._directory is None else self._directory.find(token.session_id)
        if known is None:
            return None
        value, revision = known
        before = Record.FromString(value)
        if before.session_id != token.session_id or not is_current_refresh_token(before, token.secret):
            return None
        prepared: list[_KnownRefresh] = []

        def prepare() -> Transaction | None:
            refresh = self._prepare_known(token, before, revision)
            if refresh is None:
                return None
            prepared.append(refresh)
            return refresh.transaction

        committed_revision = self._issuer.lifetime.commit_in_force(self._key(before), prepare)
        if committed_revision is None:
            return None
        [refresh] = prepared
        record = refresh.record
        self._record_commit(record, refresh.stored, committed_revision)
        return self._credentials(record, refresh.granted, refresh.access_token, refresh.successor), record.subject

    def _prepare_known(self, token: OpaqueToken, before: Record, revision: int) -> _KnownRefresh | None:
        """Prepares the transaction of a refresh; None if the session or the signing key has to be read.

        before, revision: the session's record, whose current token this is, and the record's revision
        """
        now = self._clock()  # before the transaction, so that the token cannot live too long
        signing = self._signing
        granted = evaluate_session(before, now=now, epochs={}, account=before)
        if not signing.kid or isinstance(granted, SessionEnd):
            return None
        successor = _successor_of(token)
        # The record's own revision is the new epoch. The transaction proves that no scope was revoked between the old
        # epoch and its own revision, which is greater.
        record = self._record_after(before, token, successor, granted, epoch=revision, now=now)
        try:
            access_token = self._sign(record, granted, signing.kid, now)
        except NoSigningKey:
            return None
        stored = record.SerializeToString()
        transaction = Transaction(
            [
                Unchanged(self._key(record), revision),
                Unchanged(self._layout.signing, signing.revision),
                *conditions_since_epoch(self._layout, before),
            ],
            [Put(self._key(record), stored)],
        )
        return _KnownRefresh(record, stored, granted, access_token, successor, transaction)

    def _refresh(self, token: OpaqueToken) -> tuple[auth_pb2.Credentials, str]:
        """Reads a session and the preconditions of its next credential, and refreshes it."""
        now = self._clock()  # before the read, so that the token cannot live too long
        record, preconditions, verdict = self._read_and_judge(token, now)
        granted = self._grant_or_end(record, preconditions, now)
        if isinstance(verdict, Reused):
            self._end_for_reuse(record, preconditions)
        if isinstance(verdict, Retried):
            # Nothing is written. The access token gets the epoch of the refresh that this call repeats.
            access_token = self._sign(record, granted, preconditions.signing_kid, now)
            return self._credentials(record, granted, access_token, verdict.secret), record.subject
        successor = _successor_of(token)
        record = self._record_after(record, token, successor, granted, epoch=preconditions.revision, now=now)
        access_token = self._sign(record, granted, preconditions.signing_kid, now)
        stored = record.SerializeToString()
        committed_revision = self._etcd.commit(preconditions.conditions, [Put(self._key(record), stored)])
        if committed_revision is None:
            raise PreconditionsChanged(f"a precondition of session {record.session_id!r} changed")
        self._record_commit(record, stored, committed_revision)
        return self._credentials(record, granted, access_token, successor), record.subject

    def _record_commit(self, record: Record, stored: bytes, revision: int) -> None:
        """Tells the directory of a commit at once, so that the next refresh need not wait for the watch to bring it."""
        if self._directory is not None:
            self._directory.record_commit(record, stored, revision)

    def _record_after(
        self, before: Record, token: OpaqueToken, successor: bytes, granted: Grant, *, epoch: int, now: float
    ) -> Record:
        return record_after_refresh(
            before,
            token.secret,
            successor,
            now=now,
            grace=self._settings.refresh_grace,
            idle=self._settings.session_idle,
            epoch=epoch,
            granted=granted,
            nonce=secrets.token_bytes(_NONCE_BYTES),
        )

    def _sign(self, record: Record, granted: Grant, signing_kid: str | None, now: float) -> AccessToken:
        return self._issuer.sign(
            record.subject, record.client_id, granted, signing_kid, epoch=record.epoch, now=now, session=record
        )

    def _credentials(
        self, record: Record, granted: Grant, access_token: AccessToken, refresh_secret: bytes
    ) -> auth_pb2.Credentials:
        return credentials_message(
            granted,
            now=self._clock(),
            token=access_token,
            session=record,
            refresh_token=OpaqueToken(OpaqueKind.REFRESH, record.session_id, refresh_secret),
        )

    def _resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        now = self._clock()
        try:
            record, preconditions = self._read_session(request.session_id)
        except SessionMissing as missing:
            # The node's caller renews a credential that was revoked.
            reason = Reason.CREDENTIAL_REVOKED if missing.revoked else Reason.CREDENTIAL_INVALID
            raise Refusal(reason, str(missing)) from missing
        if not is_session_secret(record, request.secret_sha256):
            raise Refusal(Reason.CREDENTIAL_INVALID, "the secret is not that of the opaque session")
        granted = self._grant_or_end(record, preconditions, now)
        if now - seconds(record.last_seen_at) >= self._settings.session_idle * _LAST_SEEN_FRACTION:
            self._store_last_seen(record, preconditions, now)
        ends_in = min(seconds(record.idle_expires_at), seconds(record.expires_at)) - now
        valid_for = min(self._settings.resolve_ttl, self._settings.session_idle * _LAST_SEEN_FRACTION, ends_in)
        return auth_pb2.ResolveSessionResponse(
            identity=session_identity(record, granted),
            attributes=record.attributes,
            valid_for=duration(valid_for),
            session_expires_at=record.expires_at,
        )

    def _store_last_seen(self, record: Record, preconditions: IssuancePreconditions, now: float) -> None:
        """Stores that the session is in use. The epoch is kept: only a refresh may change it."""
        record.last_seen_at.CopyFrom(stamp(now))
        ends_at = seconds(record.expires_at)
        record.idle_expires_at.CopyFrom(stamp(min(now + self._settings.session_idle, ends_at)))
        key = self._key(record)
        unchanged = Unchanged(key, preconditions.session_revision)
        if self._etcd.commit([unchanged], [Put(key, record.SerializeToString())]) is None:
            raise PreconditionsChanged(f"session {record.session_id!r} changed")

    def _read_and_judge(self, token: OpaqueToken, now: float) -> tuple[Record, IssuancePreconditions, Verdict]:
        """Reads the session of a token, and judges the token. Refusal if the session has never issued it."""
        try:
            record, preconditions = self._read_session(token.session_id)
        except SessionMissing as missing:
            # The same for a session that was ended: without its record, the token may be anyone's guess.
            raise Refusal(Reason.CREDENTIAL_INVALID, str(missing)) from missing
        verdict = self._judge(record, token, now)
        if isinstance(verdict, Forged):
            raise Refusal(Reason.CREDENTIAL_INVALID, f"session {token.session_id!r} has never issued this token")
        return record, preconditions, verdict

    def _judge(self, record: Record, token: OpaqueToken, now: float) -> Verdict:
        if token.kind is OpaqueKind.REFRESH:
            return judge_refresh_token(record, token.secret, now=now, grace=self._settings.refresh_grace)
        if token.kind is OpaqueKind.SESSION and is_session_secret(record, token.secret_sha256):
            return Current()
        return Forged()

    def _read_session(self, session_id: str) -> tuple[Record, IssuancePreconditions]:
        record, preconditions = read_session(self._etcd, self._issuer.lifetime, self._layout, session_id)
        self._signing = _SigningRecord(preconditions.signing_kid or "", preconditions.signing_revision)
        return record, preconditions

    def _grant_or_end(self, record: Record, preconditions: IssuancePreconditions, now: float) -> Grant:
        """Returns what the session is granted now. Ends the session and refuses if it is revoked or timed out."""
        evaluation = evaluate_session(record, now=now, epochs=preconditions.epochs, account=preconditions.account)
        if isinstance(evaluation, Grant):
            return evaluation
        unchanged = Unchanged(self._key(record), preconditions.session_revision)
        revision = self._end(record, [unchanged], _AUTH_SERVICE, evaluation.why)
        if revision is None:
            raise PreconditionsChanged(f"session {record.session_id!r} changed")
        audit(
            "session.end",
            subject=record.subject,
            session_id=record.session_id,
            reason=evaluation.why,
            revision=revision,
        )
        raise _refusal(evaluation)

    def _end_for_reuse(self, record: Record, preconditions: IssuancePreconditions) -> NoReturn:
        why = "a refresh token was used twice"
        created = CreatedAt(self._key(record), preconditions.session_created)
        revision = self._end(record, [created], _AUTH_SERVICE, why)
        if revision is None:
            raise PreconditionsChanged(f"session {record.session_id!r} was ended meanwhile")
        audit(
            "refresh.reuse",
            outcome="refused",
            subject=record.subject,
            client_id=record.client_id,
            session_id=record.session_id,
            reason=why,
            revision=revision,
        )
        raise Refusal(Reason.CREDENTIAL_REVOKED, why)

    def _end(self, record: Record, conditions: list[CreatedAt | Unchanged], actor: str, reason: str) -> int | None:
        return self._revocation.revoke(
            session_scope(record.session_id), actor=actor, reason=reason, extra_conditions=conditions
        )

    def _key(self, record: Record) -> str:
        return self._layout.session(record.session_id)


@dataclass(frozen=True, slots=True)
class _KnownRefresh:
    """A refresh of a known session, before its transaction is committed.

    record     the session's next record
    stored     its bytes
    successor  the secret of the next refresh token
    """

    record: Record
    stored: bytes
    granted: Grant
    access_token: AccessToken
    successor: bytes
    transaction: Transaction


@dataclass(frozen=True, slots=True)
class _SigningRecord:
    """The kid that the signing record names, "" for none, and the record's revision."""

    kid: str
    revision: int


class LocalSessionResolver:
    """Resolves opaque sessions for the auth service's own node, without a call over the network."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """See interceptors.verification.session_resolver.SessionResolver."""
        try:
            return self._sessions.resolve(request)
        except EtcdUnavailable as error:
            raise Refusal(Reason.MESH_STALE, f"the session cannot be read from etcd: {error}") from error


def session_identity(record: Record, granted: Grant) -> auth_pb2.Identity:
    """The identity that a session's credentials stand for."""
    return auth_pb2.Identity(
        subject=record.subject,
        client_id=record.client_id,
        session_id=record.session_id,
        scopes=granted.scopes,
        audiences=granted.audiences,
        epoch=record.epoch,
    )


def _successor_of(token: OpaqueToken) -> bytes:
    """The secret of a new successor of a refresh token."""
    return successor_secret(token.secret, secrets.token_bytes(len(token.secret)))


def _refusal(end: SessionEnd) -> Refusal:
    return Refusal(Reason.CREDENTIAL_EXPIRED if end.expired else Reason.CREDENTIAL_REVOKED, end.why)
