"""Users and clients: making, changing and deleting them, and finding out whether somebody is one.

Whatever takes something away from an account (a password, a secret, a scope, an audience, itself) revokes in the same
commit what was issued to it: there is no moment in which one has happened and the other has not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

from google.protobuf import timestamp_pb2

from authsvc.accounts.client_secrets import MOST_SECRETS, Secret, add_secret, remove_secret, secrets_of, shows_secret
from authsvc.accounts.passwords import Passwords
from authsvc.accounts.principal import FIRST_PARTY, Account
from authsvc.errors import AlreadyExists, FailedPrecondition, InvalidField, NotFound
from authsvc.store.records import FORMAT, RecordError, parse_record
from credmesh.store.v1 import auth_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, EtcdUnavailable, KeyValue, Put, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import client_scope, subject_scope
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken

__all__ = ["Accounts", "new_client", "new_user"]

_log: Final = logging.getLogger("credmesh.accounts")

_Record = TypeVar("_Record", auth_pb2.UserRecord, auth_pb2.ClientRecord)

_TRIES: Final = 5


class Revokes(Protocol):
    """The part of authsvc.revocation.revoker that accounts need."""

    def revoke(
        self,
        scope: str,
        *,
        actor: str,
        reason: str,
        extra_conditions: Sequence[Unchanged | CreatedAt] = (),
        extra_operations: Sequence[Put | Delete] = (),
    ) -> int | None:
        """Revokes a scope in one commit with the rest; the revision, or None if a condition does not hold."""
        ...


class Accounts:
    """The users and clients in etcd. Every method may raise EtcdUnavailable."""

    def __init__(self, etcd: EtcdClient, layout: Layout, passwords: Passwords, revocation: Revokes) -> None:
        self._etcd = etcd
        self._layout = layout
        self._passwords = passwords
        self._revocation = revocation

    def authenticate_user(self, subject: str, password: str) -> Account:
        """The account of a user who shows the password.

        Refusal CREDENTIAL_INVALID, after the same work, for an unknown user and a wrong password; RATE_LIMITED if as
        many passwords wait to be checked as may.
        """
        key = self._layout.user(subject)
        stored = self._etcd.read(key).values.get(key)
        record = None if stored is None else _read(auth_pb2.UserRecord, key, stored)
        known = record is not None and record.subject == subject
        right = self._passwords.verify(record.password_hash if record is not None and known else None, password)
        if record is None or stored is None or not known or not right:
            raise Refusal(Reason.CREDENTIAL_INVALID, "wrong password" if known else "unknown user")
        return Account(
            subject=record.subject,
            client_id=FIRST_PARTY,
            scopes=tuple(record.scopes),
            audiences=tuple(record.audiences),
            record_key=key,
            record_revision=self._rehash(key, stored.mod_revision, record, password),
        )

    def authenticate_client(self, client_id: str, secret: str) -> Account:
        """The account of a client that shows its secret. Its subject is the client itself (RFC 9068 section 2.2).

        Refusal CREDENTIAL_INVALID for an unknown client, a wrong secret, and one that is malformed.
        """
        key = self._layout.client(client_id)
        stored = self._etcd.read(key).values.get(key)
        record = None if stored is None else _read(auth_pb2.ClientRecord, key, stored)
        if record is None or stored is None or record.client_id != client_id or client_id == FIRST_PARTY:
            raise Refusal(Reason.CREDENTIAL_INVALID, "unknown client")
        if not shows_secret(record, _sha256_of(secret)):
            raise Refusal(Reason.CREDENTIAL_INVALID, "wrong client secret")
        return Account(
            subject=record.client_id,
            client_id=record.client_id,
            scopes=tuple(record.scopes),
            audiences=tuple(record.audiences),
            record_key=key,
            record_revision=stored.mod_revision,
        )

    def create_user(
        self, subject: str, password: str, *, scopes: Iterable[str], audiences: Iterable[str]
    ) -> auth_pb2.UserRecord:
        """Makes a user. AlreadyExists if there is one."""
        key = self._layout.user(subject)
        # Asked first, since a hash is dear; the commit asks again, since somebody may be quicker.
        if key in self._etcd.read(key).values:
            raise AlreadyExists(f"user {subject!r} exists; set a password or delete the user first")
        record = new_user(subject, self._passwords.hash(password), scopes=scopes, audiences=audiences)
        if self._etcd.commit([Unchanged(key, 0)], [Put(key, record.SerializeToString())]) is None:
            raise AlreadyExists(f"user {subject!r} exists; set a password or delete the user first")
        return record

    def update_user(
        self, subject: str, *, scopes: Sequence[str] | None, audiences: Sequence[str] | None, actor: str
    ) -> tuple[auth_pb2.UserRecord, int]:
        """Sets what a user may do and where; None leaves it. NotFound if there is none.

        The record, and the revision if something was taken away and what was issued revoked; 0 if not.
        """
        key, what = self._layout.user(subject), f"user {subject!r}"
        return self._update(auth_pb2.UserRecord, key, what, subject_scope(subject), scopes, audiences, actor)

    def set_password(self, subject: str, password: str, *, actor: str) -> int:
        """Sets a user's password and revokes what was issued to the user; the revision. NotFound if there is none."""
        key = self._layout.user(subject)
        password_hash: str | None = None
        for _ in range(_TRIES):
            record, stored_at = self._stored(auth_pb2.UserRecord, key, f"user {subject!r}")
            password_hash = password_hash or self._passwords.hash(password)
            record.password_hash = password_hash
            revision = self._revocation.revoke(
                subject_scope(subject),
                actor=actor,
                reason="password set",
                extra_conditions=[Unchanged(key, stored_at)],
                extra_operations=[Put(key, record.SerializeToString())],
            )
            if revision is not None:
                return revision
        raise FailedPrecondition(f"user {subject!r} is being changed by somebody else; try again")

    def change_password(self, subject: str, old: str, new: str) -> int:
        """Sets the password of a user who shows the old one, and revokes what was issued to the user; the revision.

        Refusal as authenticate_user.
        """
        key, what = self._layout.user(subject), f"user {subject!r}"
        password_hash: str | None = None
        for _ in range(_TRIES):
            account = self.authenticate_user(subject, old)
            record, stored_at = self._stored(auth_pb2.UserRecord, key, what)
            if stored_at != account.record_revision:
                continue  # what was proven was proven to another record
            password_hash = password_hash or self._passwords.hash(new)
            record.password_hash = password_hash
            revision = self._revocation.revoke(
                subject_scope(subject),
                actor=subject,
                reason="password changed",
                extra_conditions=[Unchanged(key, stored_at)],
                extra_operations=[Put(key, record.SerializeToString())],
            )
            if revision is not None:
                return revision
        raise FailedPrecondition(f"{what} is being changed by somebody else; try again")

    def delete_user(self, subject: str, *, actor: str) -> int:
        """Deletes a user and revokes what was issued to the user; the revision. NotFound if there is none."""
        return self._delete(self._layout.user(subject), f"user {subject!r}", subject_scope(subject), actor)

    def create_client(
        self, client_id: str, *, scopes: Iterable[str], audiences: Iterable[str]
    ) -> tuple[auth_pb2.ClientRecord, str]:
        """Makes a client; its record and its secret, which is nowhere else. AlreadyExists if there is one."""
        record, secret = new_client(client_id, scopes=scopes, audiences=audiences)
        key = self._layout.client(client_id)
        if self._etcd.commit([Unchanged(key, 0)], [Put(key, record.SerializeToString())]) is None:
            raise AlreadyExists(f"client {client_id!r} exists; delete it first")
        return record, secret

    def update_client(
        self, client_id: str, *, scopes: Sequence[str] | None, audiences: Sequence[str] | None, actor: str
    ) -> tuple[auth_pb2.ClientRecord, int]:
        """Sets what a client may do and where; see `update_user`."""
        key, what = self._layout.client(client_id), f"client {client_id!r}"
        return self._update(auth_pb2.ClientRecord, key, what, client_scope(client_id), scopes, audiences, actor)

    def add_client_secret(self, client_id: str) -> tuple[auth_pb2.ClientRecord, str]:
        """Makes a further secret for a client; its record and the secret, which is nowhere else.

        NotFound if there is no such client, FailedPrecondition if it has as many secrets as it may.
        """
        key, what = self._layout.client(client_id), f"client {client_id!r}"
        secret = OpaqueToken.generate(OpaqueKind.CLIENT_SECRET)
        for _ in range(_TRIES):
            record, stored_at = self._stored(auth_pb2.ClientRecord, key, what)
            if len(secrets_of(record)) >= MOST_SECRETS:
                raise FailedPrecondition(f"{what} has {MOST_SECRETS} secrets already; remove the old one first")
            add_secret(record, Secret(secret.secret_sha256, _now()))
            if self._etcd.commit([Unchanged(key, stored_at)], [Put(key, record.SerializeToString())]) is not None:
                return record, secret.text()
        raise FailedPrecondition(f"{what} is being changed by somebody else; try again")

    def remove_client_secret(self, client_id: str, secret_id: str, *, actor: str) -> tuple[auth_pb2.ClientRecord, int]:
        """Removes one of a client's secrets and revokes what was issued to the client; its record, and the revision.

        NotFound if there is no such client or secret, FailedPrecondition for its only one.
        """
        key, what = self._layout.client(client_id), f"client {client_id!r}"
        for _ in range(_TRIES):
            record, stored_at = self._stored(auth_pb2.ClientRecord, key, what)
            if not remove_secret(record, secret_id):
                raise NotFound(f"{what} has no secret {secret_id!r}; ListClients shows those that it has")
            if not secrets_of(record):
                raise FailedPrecondition(f"{what} has no other secret; add one first, or delete the client")
            revision = self._revocation.revoke(
                client_scope(client_id),
                actor=actor,
                reason="client secret removed",
                extra_conditions=[Unchanged(key, stored_at)],
                extra_operations=[Put(key, record.SerializeToString())],
            )
            if revision is not None:
                return record, revision
        raise FailedPrecondition(f"{what} is being changed by somebody else; try again")

    def delete_client(self, client_id: str, *, actor: str) -> int:
        """Deletes a client and revokes what was issued to it; the revision. NotFound if there is none."""
        return self._delete(self._layout.client(client_id), f"client {client_id!r}", client_scope(client_id), actor)

    def users(self) -> list[auth_pb2.UserRecord]:
        """Every user. Records that cannot be read are left out, with an error in the log."""
        values = self._etcd.read_prefix(self._layout.users).values
        found = (_read(auth_pb2.UserRecord, key, stored) for key, stored in values.items())
        return [record for record in found if record is not None]

    def clients(self) -> list[auth_pb2.ClientRecord]:
        """Every client; see `users`."""
        values = self._etcd.read_prefix(self._layout.clients).values
        found = (_read(auth_pb2.ClientRecord, key, stored) for key, stored in values.items())
        return [record for record in found if record is not None]

    def _update(
        self,
        kind: type[_Record],
        key: str,
        what: str,
        scope: str,
        scopes: Sequence[str] | None,
        audiences: Sequence[str] | None,
        actor: str,
    ) -> tuple[_Record, int]:
        for _ in range(_TRIES):
            record, stored_at = self._stored(kind, key, what)
            changed, taken = _change(record, scopes, audiences)
            if not changed:
                return record, 0
            unchanged, put = Unchanged(key, stored_at), Put(key, record.SerializeToString())
            if not taken:
                if self._etcd.commit([unchanged], [put]) is not None:
                    return record, 0
                continue
            revoked = self._revocation.revoke(
                scope,
                actor=actor,
                reason=f"{what.partition(' ')[0]} may do less",
                extra_conditions=[unchanged],
                extra_operations=[put],
            )
            if revoked is not None:
                return record, revoked
        raise FailedPrecondition(f"{what} is being changed by somebody else; try again")

    def _stored(self, kind: type[_Record], key: str, what: str) -> tuple[_Record, int]:
        """A record that is to be changed, and its revision."""
        stored = self._etcd.read(key).values.get(key)
        if stored is None:
            raise NotFound(f"there is no {what}; make one first")
        record = _read(kind, key, stored)
        if record is None:
            raise FailedPrecondition(f"the record of {what} cannot be read by this version of credmesh")
        return record, stored.mod_revision

    def _delete(self, key: str, what: str, scope: str, actor: str) -> int:
        for _ in range(_TRIES):
            stored = self._etcd.read(key).values.get(key)
            if stored is None:
                raise NotFound(f"there is no {what}")
            revision = self._revocation.revoke(
                scope,
                actor=actor,
                reason=f"{what.partition(' ')[0]} deleted",
                extra_conditions=[Unchanged(key, stored.mod_revision)],
                extra_operations=[Delete(key)],
            )
            if revision is not None:
                return revision
        raise FailedPrecondition(f"{what} is being changed by somebody else; try again")

    def _rehash(self, key: str, revision: int, record: auth_pb2.UserRecord, password: str) -> int:
        """Stores a hash of today's parameters in place of an outdated one, if that works; the record's revision."""
        if not self._passwords.outdated(record.password_hash):
            return revision
        try:
            record.password_hash = self._passwords.hash(password)
            rehashed = self._etcd.commit([Unchanged(key, revision)], [Put(key, record.SerializeToString())])
        except (Refusal, EtcdUnavailable) as error:
            # The login is good as it is. Should the commit have happened after all, issuing notices and asks again.
            _log.info("the password hash of %r stays outdated for now: %s", record.subject, error)
            return revision
        return revision if rehashed is None else rehashed


def _change(
    record: auth_pb2.UserRecord | auth_pb2.ClientRecord, scopes: Sequence[str] | None, audiences: Sequence[str] | None
) -> tuple[bool, bool]:
    """Sets what is given; whether that changes anything, and whether it takes anything away."""
    before = [*record.scopes], [*record.audiences]
    record.scopes[:] = before[0] if scopes is None else scopes
    record.audiences[:] = before[1] if audiences is None else audiences
    after = [*record.scopes], [*record.audiences]
    return before != after, any(set(held) - set(left) for held, left in zip(before, after, strict=True))


def new_user(
    subject: str, password_hash: str, *, scopes: Iterable[str], audiences: Iterable[str]
) -> auth_pb2.UserRecord:
    """A user's record, made now."""
    return auth_pb2.UserRecord(
        format=FORMAT,
        subject=subject,
        password_hash=password_hash,
        scopes=scopes,
        audiences=audiences,
        created_at=_now(),
    )


def new_client(client_id: str, *, scopes: Iterable[str], audiences: Iterable[str]) -> tuple[auth_pb2.ClientRecord, str]:
    """A client's record, made now, and its secret. InvalidField if the id is the one that stands for passwords."""
    if client_id == FIRST_PARTY:
        raise InvalidField("client_id", f"is {FIRST_PARTY!r}, which stands for everybody who shows a password")
    secret = OpaqueToken.generate(OpaqueKind.CLIENT_SECRET)
    record = auth_pb2.ClientRecord(
        format=FORMAT,
        client_id=client_id,
        secret_sha256=secret.secret_sha256,
        scopes=scopes,
        audiences=audiences,
        created_at=_now(),
    )
    return record, secret.text()


def _read(kind: type[_Record], key: str, stored: KeyValue) -> _Record | None:
    try:
        return parse_record(kind, stored.value)
    except RecordError as error:
        _log.error("skipped %s: %s", key, error)
        return None


def _sha256_of(secret: str) -> bytes:
    try:
        token = OpaqueToken.parse(secret)
    except ValueError:
        return b""
    return token.secret_sha256 if token.kind is OpaqueKind.CLIENT_SECRET else b""


def _now() -> timestamp_pb2.Timestamp:
    now = timestamp_pb2.Timestamp()
    now.GetCurrentTime()
    return now
