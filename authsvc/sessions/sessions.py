"""Renewing, resolving and ending sessions. authsvc.sessions.refresh_tokens decides on a refresh token."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from authsvc.audit import audit
from authsvc.revocation.revoker import Revoker
from authsvc.sessions.grants import Grant
from authsvc.sessions.issuer import Issuer, credentials
from authsvc.sessions.preconditions import Changed, Ended, IssuancePreconditions, persist, read_session
from authsvc.sessions.refresh_tokens import (
    Current,
    Ending,
    Forged,
    Retried,
    Reused,
    Verdict,
    is_session_secret,
    judge_refresh_token,
    refreshed,
    review,
    succeed,
)
from authsvc.settings import AuthSettings
from authsvc.store.timestamps import duration, seconds, stamp
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.caller import Caller
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, EtcdUnavailable, Put, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import key_scope, session_scope
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from interceptors.verification.verifier import revocation_scopes

__all__ = ["LocalSessionResolver", "Sessions", "identity"]

_SERVICE: Final = "auth"
"""The actor of what nobody asked for."""

_NONCE_BYTES: Final = 12

# A node that serves an opaque session asks again at least four times within the idle timeout, and being seen is stored
# only when a quarter of it has passed. So a session in use never times out, and one write serves many questions.
_SEEN_FRACTION: Final = 0.25

Record = store_pb2.SessionRecord


class Sessions:
    """The sessions in etcd. Thread-safe; every replica may change them.

    Every method may raise EtcdUnavailable, and Refusal MESH_NOT_READY where nothing holds still for long enough.

    clock: seconds since 1970; it decides on timeouts and the grace window, never on revocation.
    """

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        issuer: Issuer,
        revocation: Revoker,
        settings: AuthSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._issuer = issuer
        self._revocation = revocation
        self._settings = settings
        self._clock = clock

    def refresh(self, token: OpaqueToken) -> tuple[auth_pb2.Credentials, str]:
        """Trades a refresh token for the next credentials; these, and whose they are.

        Refusal CREDENTIAL_INVALID if it is not one of a live session, CREDENTIAL_REVOKED if the session was ended or
        is now, for reuse, CREDENTIAL_EXPIRED if it timed out. EtcdUnavailable says nothing about whether the token was
        used up: within the grace window a retry tells.
        """
        return persist(lambda: self._refresh(token))

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """Says what stands behind an opaque session, or why nothing does."""
        try:
            return persist(lambda: self._resolve(request))
        except Refusal as refusal:
            if refusal.reason not in (Reason.CREDENTIAL_INVALID, Reason.CREDENTIAL_EXPIRED, Reason.CREDENTIAL_REVOKED):
                raise
            return auth_pb2.ResolveSessionResponse(refusal=refusal.reason.name)

    def find(self, token: OpaqueToken) -> tuple[Record, Grant]:
        """The session of a refresh or session token that would be accepted now, and what it may do now.

        Changes nothing. Refusal as `refresh` and `resolve` have it.
        """
        now = self._clock()
        record, preconditions, verdict = self._read(token, now)
        if isinstance(verdict, Reused):
            raise Refusal(Reason.CREDENTIAL_REVOKED, "the refresh token was used before")
        found = review(record, now=now, epochs=preconditions.epochs, holder=preconditions.holder)
        if isinstance(found, Ending):
            raise _refusal(found)
        return record, found

    def refuse_if_revoked(self, caller: Caller, kid: str) -> None:
        """Refusal CREDENTIAL_REVOKED if a verified token was revoked since, as etcd knows it at this moment.

        kid: the key that signed it.
        """
        found = self._etcd.read(*(self._layout.epoch(scope) for scope in revocation_scopes(caller, kid))).values
        # Whoever has a key that was revoked by force may claim any epoch.
        if self._layout.epoch(key_scope(kid)) in found or any(
            stored.mod_revision > caller.epoch for stored in found.values()
        ):
            raise Refusal(Reason.CREDENTIAL_REVOKED, "a scope of it was revoked a moment ago")

    def logout(self, token: OpaqueToken) -> tuple[int, str]:
        """Ends the session of a refresh or session token that was ever one of it; the revision, and whose it was.

        Revision 0 where there is nothing to end, which is no error (RFC 7009 section 2.2).
        """
        try:
            record, preconditions, _ = self._read(token, self._clock())
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
        """Ends a session: its record goes and its epoch comes in one commit. The revision; None if there is none.

        extra_operations are part of the same commit.
        """
        key = self._layout.session(session_id)
        stored = self._etcd.read(key).values.get(key)
        if stored is None:
            return None
        # Whatever happens to the record meanwhile, it ends: only that it is still there is compared.
        return self._revocation.revoke(
            session_scope(session_id),
            actor=actor,
            reason=reason,
            extra_conditions=[CreatedAt(key, stored.create_revision)],
            extra_operations=extra_operations,
        )

    def _refresh(self, token: OpaqueToken) -> tuple[auth_pb2.Credentials, str]:
        now = self._clock()  # before anything is read: a token that is made of it never lives too long
        record, preconditions, verdict = self._read(token, now)
        granted = self._review(record, preconditions, now)
        if isinstance(verdict, Reused):
            self._end_for_reuse(record, preconditions)
        if isinstance(verdict, Retried):
            # The token inherits the epoch of the refresh that it repeats; nothing is written.
            successor = verdict.secret
        else:
            successor = succeed(token.secret, secrets.token_bytes(len(token.secret)))
            record = refreshed(
                record,
                token.secret,
                successor,
                now=now,
                grace=self._settings.refresh_grace,
                idle=self._settings.session_idle,
                epoch=preconditions.revision,
                granted=granted,
                nonce=secrets.token_bytes(_NONCE_BYTES),
            )
        access_token = self._issuer.sign(
            record.subject, record.client_id, granted, preconditions, epoch=record.epoch, now=now, session=record
        )
        if not isinstance(verdict, Retried):
            put = Put(self._key(record), record.SerializeToString())
            if self._etcd.commit(preconditions.conditions, [put]) is None:
                raise Changed(f"what session {record.session_id!r} stands on was changed")
        answer = credentials(
            granted,
            now=self._clock(),
            token=access_token,
            session=record,
            refresh_token=OpaqueToken(OpaqueKind.REFRESH, record.session_id, successor),
        )
        return answer, record.subject

    def _resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        now = self._clock()
        record, preconditions = self._read_record(request.session_id)
        if not is_session_secret(record, request.secret_sha256):
            raise Refusal(Reason.CREDENTIAL_INVALID, "not the secret of an opaque session")
        granted = self._review(record, preconditions, now)
        if now - seconds(record.last_seen_at) >= self._settings.session_idle * _SEEN_FRACTION:
            self._see(record, preconditions, now)
        ends_in = min(seconds(record.idle_expires_at), seconds(record.expires_at)) - now
        valid_for = min(self._settings.resolve_ttl, self._settings.session_idle * _SEEN_FRACTION, ends_in)
        return auth_pb2.ResolveSessionResponse(
            identity=identity(record, granted),
            attributes=record.attributes,
            valid_for=duration(valid_for),
            session_expires_at=record.expires_at,
        )

    def _see(self, record: Record, preconditions: IssuancePreconditions, now: float) -> None:
        """Stores that the session was seen now. The epoch stays: only a refresh may move it on."""
        record.last_seen_at.CopyFrom(stamp(now))
        ends_at = seconds(record.expires_at)
        record.idle_expires_at.CopyFrom(stamp(min(now + self._settings.session_idle, ends_at)))
        key = self._key(record)
        unchanged = Unchanged(key, preconditions.session_revision)
        if self._etcd.commit([unchanged], [Put(key, record.SerializeToString())]) is None:
            raise Changed(f"session {record.session_id!r} was changed")

    def _read(self, token: OpaqueToken, now: float) -> tuple[Record, IssuancePreconditions, Verdict]:
        """The session that a token belongs to. Refusal if there is none, or the token was never one of it."""
        record, preconditions = self._read_record(token.session_id)
        verdict: Verdict = Forged()
        if token.kind is OpaqueKind.REFRESH:
            verdict = judge_refresh_token(record, token.secret, now=now, grace=self._settings.refresh_grace)
        elif token.kind is OpaqueKind.SESSION and is_session_secret(record, token.secret_sha256):
            verdict = Current()
        if isinstance(verdict, Forged):
            raise Refusal(Reason.CREDENTIAL_INVALID, f"never a token of session {token.session_id!r}")
        return record, preconditions, verdict

    def _read_record(self, session_id: str) -> tuple[Record, IssuancePreconditions]:
        try:
            return read_session(self._etcd, self._issuer.lifetime, self._layout, session_id)
        except Ended as ended:
            reason = Reason.CREDENTIAL_REVOKED if ended.revoked else Reason.CREDENTIAL_INVALID
            raise Refusal(reason, str(ended)) from ended

    def _review(self, record: Record, preconditions: IssuancePreconditions, now: float) -> Grant:
        """What the session may do now. If it cannot go on, ends it, if nobody has yet, and refuses."""
        found = review(record, now=now, epochs=preconditions.epochs, holder=preconditions.holder)
        if isinstance(found, Grant):
            return found
        unchanged = Unchanged(self._key(record), preconditions.session_revision)
        revision = self._end(record, [unchanged], _SERVICE, found.why)
        if revision is None:
            raise Changed(f"session {record.session_id!r} was changed")
        audit(
            "session.end",
            subject=record.subject,
            session_id=record.session_id,
            reason=found.why,
            revision=revision,
        )
        raise _refusal(found)

    def _end_for_reuse(self, record: Record, preconditions: IssuancePreconditions) -> NoReturn:
        why = "a refresh token was used twice"
        created = CreatedAt(self._key(record), preconditions.session_created)
        revision = self._end(record, [created], _SERVICE, why)
        if revision is None:
            raise Changed(f"session {record.session_id!r} was ended by somebody else")
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


class LocalSessionResolver:
    """Resolves opaque sessions for the auth service's own node, which need not call itself for it."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """See interceptors.verification.session_resolver.SessionResolver."""
        try:
            return self._sessions.resolve(request)
        except EtcdUnavailable as error:
            raise Refusal(Reason.MESH_STALE, f"etcd could not be asked for the session: {error}") from error


def identity(record: Record, granted: Grant) -> auth_pb2.Identity:
    """Whose a session's credentials are."""
    return auth_pb2.Identity(
        subject=record.subject,
        client_id=record.client_id,
        session_id=record.session_id,
        scopes=granted.scopes,
        audiences=granted.audiences,
        epoch=record.epoch,
    )


def _refusal(ending: Ending) -> Refusal:
    return Refusal(Reason.CREDENTIAL_EXPIRED if ending.expired else Reason.CREDENTIAL_REVOKED, ending.why)
