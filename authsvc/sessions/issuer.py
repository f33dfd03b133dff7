"""Issues credentials: access tokens (RFC 9068), and the sessions of refresh tokens and opaque session tokens.

A login authenticates the account, reads the credential's preconditions, and commits only if they are unchanged. The
times of a token are taken before that read, so that a slow etcd or a paused process cannot prolong the token's life.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authsvc.accounts.principal import FIRST_PARTY, Account
from authsvc.errors import FailedPrecondition
from authsvc.keys.signer_cache import KeyMissing, SignerCache
from authsvc.revocation.lifetimes import IssuingLifetime, longest_issued_lifetime
from authsvc.sessions.grants import Grant, grant
from authsvc.sessions.preconditions import (
    IssuancePreconditions,
    NoSigningKey,
    PreconditionsChanged,
    read_preconditions,
    retry_on_change,
)
from authsvc.sessions.refresh_tokens import family_digest
from authsvc.settings import AuthSettings
from authsvc.store.timestamps import duration, seconds, stamp
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout
from interceptors.stored_records import FORMAT
from interceptors.tokens import base64url
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken, new_session_id
from interceptors.trust.bundle import TrustBundle

__all__ = ["AccessToken", "Issuer", "credentials_message"]

_MAX_NAMED_CLAIMS: Final = 3

Record = store_pb2.SessionRecord


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed access token, which is a secret, and its expiry in seconds since 1970."""

    text: str
    expires_at: float

    def __repr__(self) -> str:
        return f"AccessToken(expires_at={self.expires_at})"


class Issuer:
    """Issues credentials. Thread-safe; any replica may do it.

    bundle  the trust bundle of the replica's own node, with whose observations of etcd every read is compared; None in
            tests
    clock   seconds since 1970. It decides when credentials expire, and nothing else

    `lifetime` is the lifetime of the issued credentials. Code that issues a credential must read the preconditions with
    it, so that it is in force at the revision of the read.
    """

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        signers: SignerCache,
        settings: AuthSettings,
        bundle: TrustBundle | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._signers = signers
        self._settings = settings
        self._clock = clock
        self.lifetime: Final = IssuingLifetime(etcd, layout, longest_issued_lifetime(settings), bundle=bundle)

    def login(
        self,
        authenticate: Callable[[], Account],
        *,
        kind: auth_pb2.CredentialKind.ValueType = auth_pb2.CREDENTIAL_KIND_TOKENS,
        scopes: Sequence[str] = (),
        audiences: Sequence[str] = (),
    ) -> auth_pb2.Credentials:
        """Issues credentials for the account that `authenticate` returns, and begins a session for a user.

        `authenticate` is called again if the account changes or is revoked meanwhile.

        Raises what `authenticate` and `grant` raise. FailedPrecondition if the token would be too large. Refusal
        MESH_NOT_READY if no key signs, or if the preconditions keep changing. EtcdUnavailable: then a session may have
        begun whose credentials no caller has, and which will time out.
        """
        account: Account | None = None
        revision_before = 0
        session_id = new_session_id()

        def attempt() -> auth_pb2.Credentials:
            nonlocal account, revision_before
            if account is None:
                revision_before = self._etcd.read(self._layout.signing).revision
                account = authenticate()
            granted = grant(account, scopes=scopes, audiences=audiences)
            now = self._clock()
            preconditions = read_preconditions(
                self.lifetime,
                self._layout,
                subject=account.subject,
                client_id=account.client_id,
                audiences=granted.audiences,
                session_id=session_id,
            )
            # A change or a revocation of the account during the authentication makes that invalid.
            changed = preconditions.account_revision != account.record_revision
            if changed or any(epoch > revision_before for epoch in preconditions.epochs.values()):
                subject, account = account.subject, None
                raise PreconditionsChanged(f"the account of {subject!r} was changed or revoked")
            if kind == auth_pb2.CREDENTIAL_KIND_SESSION:
                return self._begin_opaque(account, granted, preconditions, session_id, now)
            if account.client_id == FIRST_PARTY:
                return self._begin_tokens(account, granted, preconditions, session_id, now)
            # Nothing is written, so no condition is needed: the token's epoch is the revision of the read, and every
            # later revocation has a greater epoch.
            token = self.sign(
                account.subject,
                account.client_id,
                granted,
                preconditions.signing_kid,
                epoch=preconditions.revision,
                now=now,
            )
            return credentials_message(granted, now=self._clock(), token=token)

        return retry_on_change(attempt)

    def sign(
        self,
        subject: str,
        client_id: str,
        granted: Grant,
        signing_kid: str | None,
        *,
        epoch: int,
        now: float,
        session: Record | None = None,
    ) -> AccessToken:
        """Signs an access token.

        signing_kid  the kid of the key that signs; None if no key signs
        epoch        a revision as of which no scope of the token was revoked
        now          seconds since 1970, taken before that was read

        Raises NoSigningKey. FailedPrecondition if the token would be too large.
        """
        if signing_kid is None:
            raise NoSigningKey("no key signs yet; a replica has to lead the rotation, see the log of the auth service")
        try:
            signer = self._signers.signer(signing_kid)
        except KeyMissing as error:
            raise NoSigningKey(str(error)) from error
        issued_at = int(now)
        expires_at = now + self._settings.token_lifetime
        claims: dict[str, Any] = {
            "iss": self._settings.mesh.issuer,
            "sub": subject,
            "aud": list(granted.audiences),
            # Rounded down: a key is removed as soon as the last token that it signed must have expired.
            "exp": int(expires_at),
            "nbf": issued_at,
            "iat": issued_at,
            "jti": base64url.encode(secrets.token_bytes(16)),
            "client_id": client_id,
            "scope": " ".join(granted.scopes),
            "epoch": epoch,
        }
        if session is not None:
            ends_at = seconds(session.expires_at)
            claims["sid"] = session.session_id
            claims["session_exp"] = int(ends_at)
            claims["exp"] = int(min(expires_at, ends_at))
        text = signer.sign(claims)
        if len(text) > self._settings.max_token_bytes:
            raise FailedPrecondition(_too_large(len(text), self._settings.max_token_bytes, claims))
        return AccessToken(text, claims["exp"])

    def _begin_tokens(
        self, account: Account, granted: Grant, preconditions: IssuancePreconditions, session_id: str, now: float
    ) -> auth_pb2.Credentials:
        refresh_token = OpaqueToken.generate(OpaqueKind.REFRESH, session_id)
        record = self._record(account, granted, preconditions, refresh_token, now)
        record.kind = Record.KIND_TOKENS
        record.family_sha256 = family_digest(refresh_token.secret)
        token = self.sign(
            account.subject,
            account.client_id,
            granted,
            preconditions.signing_kid,
            epoch=record.epoch,
            now=now,
            session=record,
        )
        self._commit(preconditions, record)
        return credentials_message(granted, now=self._clock(), token=token, session=record, refresh_token=refresh_token)

    def _begin_opaque(
        self, account: Account, granted: Grant, preconditions: IssuancePreconditions, session_id: str, now: float
    ) -> auth_pb2.Credentials:
        session_token = OpaqueToken.generate(OpaqueKind.SESSION, session_id)
        record = self._record(account, granted, preconditions, session_token, now)
        record.kind = Record.KIND_OPAQUE
        self._commit(preconditions, record)
        return credentials_message(granted, now=self._clock(), session=record, session_token=session_token)

    def _record(
        self, account: Account, granted: Grant, preconditions: IssuancePreconditions, token: OpaqueToken, now: float
    ) -> Record:
        ends_at = now + self._settings.session_lifetime
        return Record(
            format=FORMAT,
            session_id=token.session_id,
            subject=account.subject,
            client_id=account.client_id,
            scopes=granted.scopes,
            audiences=granted.audiences,
            epoch=preconditions.revision,
            created_at=stamp(now),
            last_seen_at=stamp(now),
            idle_expires_at=stamp(min(now + self._settings.session_idle, ends_at)),
            expires_at=stamp(ends_at),
            secret_sha256=token.secret_sha256,
        )

    def _commit(self, preconditions: IssuancePreconditions, record: Record) -> None:
        put = Put(self._layout.session(record.session_id), record.SerializeToString())
        if self._etcd.commit(preconditions.conditions, [put]) is None:
            raise PreconditionsChanged(f"a precondition of the login of {record.subject!r} changed")


def credentials_message(
    granted: Grant,
    *,
    now: float,
    token: AccessToken | None = None,
    session: Record | None = None,
    refresh_token: OpaqueToken | None = None,
    session_token: OpaqueToken | None = None,
) -> auth_pb2.Credentials:
    """The message with these credentials. now: seconds since 1970, from which expires_in counts."""
    message = auth_pb2.Credentials(scopes=granted.scopes, audiences=granted.audiences)
    if token is not None:
        message.access_token = token.text
        message.expires_in.CopyFrom(duration(token.expires_at - now))
    if refresh_token is not None:
        message.refresh_token = refresh_token.text()
    if session_token is not None:
        message.session_token = session_token.text()
    if session is not None:
        message.session_id = session.session_id
        message.session_expires_at.CopyFrom(session.expires_at)
    return message


def _too_large(size: int, max_size: int, claims: dict[str, Any]) -> str:
    sizes = {
        name: len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        for name, value in claims.items()
    }
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_MAX_NAMED_CLAIMS]
    named = ", ".join(f"{name} ({sizes[name]:,} bytes)" for name in largest)
    return (
        f"the access token would have {size:,} bytes, and {max_size:,} is the maximum; its largest claims: {named}. "
        "Request fewer scopes or audiences, or an opaque session"
    )
