"""Issuing credentials: access tokens (RFC 9068), and the sessions that refresh tokens and opaque sessions hang from.

A login reads, authenticates, and commits only if nothing that the credential stands on has changed since. A token's
times are taken before that, so that neither a slow disk nor a paused process makes it live longer than it may.
"""

from __future__ import annotations

import json
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authsvc.accounts.principal import FIRST_PARTY, Account
from authsvc.errors import FailedPrecondition
from authsvc.keys.ring import KeyMissing, KeyRing
from authsvc.revocation.lifetimes import Lifetime, longest_issued
from authsvc.sessions.grants import Grant, grant
from authsvc.sessions.preconditions import Changed, IssuancePreconditions, NoSigningKey, persist, read_preconditions
from authsvc.sessions.refresh_tokens import begin_family
from authsvc.settings import AuthSettings
from authsvc.store.records import FORMAT
from authsvc.store.timestamps import duration, seconds, stamp
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken, new_session_id

__all__ = ["AccessToken", "Issuer", "credentials"]

_NAMED_CLAIMS: Final = 3

Record = store_pb2.SessionRecord


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed access token, a secret, and when it expires in seconds since 1970."""

    text: str
    expires_at: float

    def __repr__(self) -> str:
        return f"AccessToken(expires_at={self.expires_at})"


class Issuer:
    """Issues credentials. Thread-safe; every replica may do it.

    clock: seconds since 1970; it decides when credentials expire, and nothing else.

    `lifetime` is what they are issued under: whoever issues on a session's preconditions reads that under it.
    """

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        ring: KeyRing,
        settings: AuthSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._ring = ring
        self._settings = settings
        self._clock = clock
        self.lifetime: Final = Lifetime(etcd, layout, longest_issued(settings))

    def login(
        self,
        authenticate: Callable[[], Account],
        *,
        kind: auth_pb2.CredentialKind.ValueType = auth_pb2.CREDENTIAL_KIND_TOKENS,
        scopes: Sequence[str] = (),
        audiences: Sequence[str] = (),
    ) -> auth_pb2.Credentials:
        """Issues the first credentials for whoever `authenticate` finds; it is called again if the account changes.

        Raises what `authenticate` and `grant` raise; FailedPrecondition if the token would be too large; Refusal
        MESH_NOT_READY if no key signs or nothing holds still for long enough; EtcdUnavailable, after which the login
        may or may not have begun a session that nobody holds and that times out.
        """
        account: Account | None = None
        began = 0
        session_id = new_session_id()

        def attempt() -> auth_pb2.Credentials:
            nonlocal account, began
            if account is None:
                began = self._etcd.read(self._layout.signing).revision
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
            # Whose account is changed, or who is revoked, while being authenticated has to be authenticated after that.
            changed = preconditions.account_revision != account.record_revision
            if changed or any(epoch > began for epoch in preconditions.epochs.values()):
                subject, account = account.subject, None
                raise Changed(f"the account of {subject!r} was changed or revoked")
            if kind == auth_pb2.CREDENTIAL_KIND_SESSION:
                return self._begin_opaque(account, granted, preconditions, session_id, now)
            if account.client_id == FIRST_PARTY:
                return self._begin_tokens(account, granted, preconditions, session_id, now)
            # Nothing is written, so nothing is compared: the token's epoch is the read's own revision, and whatever is
            # revoked after that kills it.
            token = self.sign(
                account.subject, account.client_id, granted, preconditions, epoch=preconditions.revision, now=now
            )
            return credentials(granted, now=self._clock(), token=token)

        return persist(attempt)

    def sign(
        self,
        subject: str,
        client_id: str,
        granted: Grant,
        preconditions: IssuancePreconditions,
        *,
        epoch: int,
        now: float,
        session: Record | None = None,
    ) -> AccessToken:
        """Signs an access token with the key that signs as of `preconditions`.

        now: seconds since 1970, taken before `preconditions` was read. Raises NoSigningKey and FailedPrecondition.
        """
        if preconditions.signing is None:
            raise NoSigningKey("no key signs yet; is a replica leading the rotation?")
        try:
            signer = self._ring.signer(preconditions.signing)
        except KeyMissing as error:
            raise NoSigningKey(str(error)) from error
        issued_at = int(now)
        expires_at = now + self._settings.token_lifetime
        claims: dict[str, Any] = {
            "iss": self._settings.mesh.issuer,
            "sub": subject,
            "aud": list(granted.audiences),
            # Rounded down: a key is removed when the last token that it signed has expired, and no second later.
            "exp": int(expires_at),
            "nbf": issued_at,
            "iat": issued_at,
            "jti": urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode(),
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
        record.family_sha256 = begin_family(refresh_token.secret)
        token = self.sign(
            account.subject, account.client_id, granted, preconditions, epoch=record.epoch, now=now, session=record
        )
        self._commit(preconditions, record)
        return credentials(granted, now=self._clock(), token=token, session=record, refresh_token=refresh_token)

    def _begin_opaque(
        self, account: Account, granted: Grant, preconditions: IssuancePreconditions, session_id: str, now: float
    ) -> auth_pb2.Credentials:
        session_token = OpaqueToken.generate(OpaqueKind.SESSION, session_id)
        record = self._record(account, granted, preconditions, session_token, now)
        record.kind = Record.KIND_OPAQUE
        self._commit(preconditions, record)
        return credentials(granted, now=self._clock(), session=record, session_token=session_token)

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
            raise Changed(f"what the login of {record.subject!r} stands on was changed")


def credentials(
    granted: Grant,
    *,
    now: float,
    token: AccessToken | None = None,
    session: Record | None = None,
    refresh_token: OpaqueToken | None = None,
    session_token: OpaqueToken | None = None,
) -> auth_pb2.Credentials:
    """The answer that carries credentials; `now` is when it is made, in seconds since 1970."""
    answer = auth_pb2.Credentials(scopes=granted.scopes, audiences=granted.audiences)
    if token is not None:
        answer.access_token = token.text
        answer.expires_in.CopyFrom(duration(token.expires_at - now))
    if refresh_token is not None:
        answer.refresh_token = refresh_token.text()
    if session_token is not None:
        answer.session_token = session_token.text()
    if session is not None:
        answer.session_id = session.session_id
        answer.session_expires_at.CopyFrom(session.expires_at)
    return answer


def _too_large(size: int, most: int, claims: dict[str, Any]) -> str:
    sizes = {
        name: len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        for name, value in claims.items()
    }
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_NAMED_CLAIMS]
    named = ", ".join(f"{name} ({sizes[name]:,} bytes)" for name in largest)
    return (
        f"the access token would have {size:,} bytes, and at most {most:,} are issued; its largest claims: {named}. "
        "Ask for fewer scopes or audiences, or for an opaque session"
    )
