"""Users and clients: creating, changing and deleting them, and authenticating them.

A change that takes something from an account (its password, a secret, a scope, an audience, or the account itself)
revokes the account's credentials in the same commit. So neither is ever visible without the other.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from google.protobuf import timestamp_pb2

from authsvc.accounts.client_secrets import MAX_SECRETS, Secret, add_secret, has_secret, remove_secret, secrets_of
from authsvc.accounts.passwords import Passwords
from authsvc.accounts.principal import FIRST_PARTY, Account
from authsvc.errors import AlreadyExists, FailedPrecondition, InvalidField, NotFound
from credmesh.store.v1 import auth_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, EtcdUnavailable, KeyValue, Put, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import client_scope, subject_scope
from interceptors.stored_records import FORMAT, RecordError, parse_record
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken

__all__ = ["Accounts", "WrongSecret", "new_client", "new_user"]

_log: Final = logging.getLogger("credmesh.accounts")

_Record = TypeVar("_Record", auth_pb2.UserRecord, auth_pb2.ClientRecord)
_Result = TypeVar("_Result")

_MAX_ATTEMPTS: Final = 5


class WrongSecret(Refusal):
    """The account exists, and its password or client secret is another one (CREDENTIAL_INVALID).

    The caller gets the same answer as for an unknown account. For the audit trail they differ: it names an account only
    if the account exists, since callers type passwords into the name field.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(Reason.CREDENTIAL_INVALID, cause)


class ScopeRevoker(Protocol):
    """The part of authsvc.revocation.revoker.Revoker that accounts need."""

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


class _Effect(enum.Enum):
    """What a change of a record does to the account."""

    NOTHING = enum.auto()
    ADDS = enum.auto()
    TAKES = enum.auto()


@dataclass(frozen=True, slots=True)
class _AccountRef(Generic[_Record]):
    """A user or a client, whether it exists or not.

    kind   "user" or "client", for messages
    name   the subject or the client id
    key    the etcd key of its record
    scope  its revocation scope
    """

    kind: str
    name: str
    record_type: type[_Record]
    key: str
    scope: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


class Accounts:
    """The users and clients in etcd. Every method may raise EtcdUnavailable.

    A method that changes an account raises FailedPrecondition if other requests keep changing it at the same time.
    """

    def __init__(self, etcd: EtcdClient, layout: Layout, passwords: Passwords, revocation: ScopeRevoker) -> None:
        self._etcd = etcd
        self._layout = layout
        self._passwords = passwords
        self._revocation = revocation

    def authenticate_user(self, subject: str, password: str) -> Account:
        """Returns the account of a user, given the password.

        Refusal CREDENTIAL_INVALID for an unknown user, and WrongSecret for a wrong password, after the same work.
        Refusal RATE_LIMITED if too many passwords are waiting to be checked.
        """
        key = self._layout.user(subject)
        stored = self._etcd.read(key).values.get(key)
        record = None if stored is None else _readable_record(auth_pb2.UserRecord, key, stored)
        known = record is not None and record.subject == subject
        matches = self._passwords.verify(record.password_hash if record is not None and known else None, password)
        if record is None or stored is None or not known:
            raise Refusal(Reason.CREDENTIAL_INVALID, "unknown user")
        if not matches:
            raise WrongSecret("wrong password")
        return Account(
            subject=record.subject,
            client_id=FIRST_PARTY,
            scopes=tuple(record.scopes),
            audiences=tuple(record.audiences),
            record_key=key,
            record_revision=self._replace_outdated_hash(key, stored.mod_revision, record, password),
        )

    def authenticate_client(self, client_id: str, secret: str) -> Account:
        """Returns the account of a client, given its secret. Its subject is the client itself (RFC 9068 section 2.2).

        Refusal CREDENTIAL_INVALID for an unknown client, and WrongSecret for a wrong or malformed secret.
        """
        key = self._layout.client(client_id)
        stored = self._etcd.read(key).values.get(key)
        record = None if stored is None else _readable_record(auth_pb2.ClientRecord, key, stored)
        if record is None or stored is None or record.client_id != client_id or client_id == FIRST_PARTY:
            raise Refusal(Reason.CREDENTIAL_INVALID, "unknown client")
        if not has_secret(record, _sha256_of(secret)):
            raise WrongSecret("wrong client secret")
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
        """Creates a user. AlreadyExists if there is one."""
        key = self._layout.user(subject)
        exists = f"user {subject!r} exists; set a password or delete the user first"
        # A read before the commit, which compares again, saves the costly hash of a user who exists.
        if key in self._etcd.read(key).values:
            raise AlreadyExists(exists)
        record = new_user(subject, self._passwords.hash(password), scopes=scopes, audiences=audiences)
        if self._etcd.commit([Unchanged(key, 0)], [Put(key, record.SerializeToString())]) is None:
            raise AlreadyExists(exists)
        return record

    def update_user(
        self, subject: str, *, scopes: Sequence[str] | None, audiences: Sequence[str] | None, actor: str
    ) -> tuple[auth_pb2.UserRecord, int]:
        """Sets a user's scopes and audiences; None keeps them. NotFound if there is no such user.

        Returns the record, and the revision of the revocation, which is 0 if nothing was taken away.
        """
        return self._set_entitlements(self._user(subject), scopes, audiences, actor)

    def set_password(self, subject: str, password: str, *, actor: str) -> int:
        """Sets a user's password and revokes the user's credentials. Returns the revision. NotFound."""
        user, set_hash = self._user(subject), self._password_setter(password)
        return self._retry(user, lambda: self._try_change(user, set_hash, actor=actor, reason="password set"))[1]

    def change_password(self, subject: str, old: str, new: str) -> int:
        """Sets a user's password, given the old one, and revokes the user's credentials. Returns the revision.

        Refusal as authenticate_user.
        """
        user, set_hash = self._user(subject), self._password_setter(new)

        def attempt() -> tuple[auth_pb2.UserRecord, int] | None:
            # The old password was checked against the record of this revision, so only that may be changed.
            checked_at = self.authenticate_user(subject, old).record_revision
            return self._try_change(
                user, set_hash, actor=subject, reason="password changed", expected_revision=checked_at
            )

        return self._retry(user, attempt)[1]

    def delete_user(self, subject: str, *, actor: str) -> int:
        """Deletes a user and revokes the user's credentials. Returns the revision. NotFound."""
        return self._delete(self._user(subject), actor)

    def create_client(
        self, client_id: str, *, scopes: Iterable[str], audiences: Iterable[str]
    ) -> tuple[auth_pb2.ClientRecord, str]:
        """Creates a client. Returns its record, and its secret, which is stored only as a hash. AlreadyExists."""
        record, secret = new_client(client_id, scopes=scopes, audiences=audiences)
        key = self._layout.client(client_id)
        if self._etcd.commit([Unchanged(key, 0)], [Put(key, record.SerializeToString())]) is None:
            raise AlreadyExists(f"client {client_id!r} exists; delete it first")
        return record, secret

    def update_client(
        self, client_id: str, *, scopes: Sequence[str] | None, audiences: Sequence[str] | None, actor: str
    ) -> tuple[auth_pb2.ClientRecord, int]:
        """Sets a client's scopes and audiences; see `update_user`."""
        return self._set_entitlements(self._client(client_id), scopes, audiences, actor)

    def add_client_secret(self, client_id: str) -> tuple[auth_pb2.ClientRecord, str]:
        """Adds a secret to a client. Returns the client's record, and the secret, which is stored only as a hash.

        NotFound if there is no such client. FailedPrecondition if it has the maximum number of secrets.
        """
        client = self._client(client_id)
        secret = OpaqueToken.generate(OpaqueKind.CLIENT_SECRET)

        def add(record: auth_pb2.ClientRecord) -> _Effect:
            if len(secrets_of(record)) >= MAX_SECRETS:
                raise FailedPrecondition(f"{client} has {MAX_SECRETS} secrets already; remove the old one first")
            add_secret(record, Secret(secret.secret_sha256, _now()))
            return _Effect.ADDS

        record, _ = self._retry(client, lambda: self._try_change(client, add))
        return record, secret.text()

    def remove_client_secret(self, client_id: str, secret_id: str, *, actor: str) -> tuple[auth_pb2.ClientRecord, int]:
        """Removes one of a client's secrets and revokes the client's credentials. Returns its record and the revision.

        NotFound if there is no such client or secret. FailedPrecondition if it is the only secret.
        """
        client = self._client(client_id)

        def remove(record: auth_pb2.ClientRecord) -> _Effect:
            if not remove_secret(record, secret_id):
                raise NotFound(f"{client} has no secret {secret_id!r}; ListClients shows its secrets")
            if not secrets_of(record):
                raise FailedPrecondition(f"{client} has no other secret; add one first, or delete the client")
            return _Effect.TAKES

        return self._retry(
            client, lambda: self._try_change(client, remove, actor=actor, reason="client secret removed")
        )

    def delete_client(self, client_id: str, *, actor: str) -> int:
        """Deletes a client and revokes the client's credentials. Returns the revision. NotFound."""
        return self._delete(self._client(client_id), actor)

    def users(self) -> list[auth_pb2.UserRecord]:
        """Reads all users. Records that cannot be read are left out, with an error in the log."""
        return self._read_all(auth_pb2.UserRecord, self._layout.users)

    def clients(self) -> list[auth_pb2.ClientRecord]:
        """Reads all clients; see `users`."""
        return self._read_all(auth_pb2.ClientRecord, self._layout.clients)

    def _user(self, subject: str) -> _AccountRef[auth_pb2.UserRecord]:
        return _AccountRef("user", subject, auth_pb2.UserRecord, self._layout.user(subject), subject_scope(subject))

    def _client(self, client_id: str) -> _AccountRef[auth_pb2.ClientRecord]:
        return _AccountRef(
            "client", client_id, auth_pb2.ClientRecord, self._layout.client(client_id), client_scope(client_id)
        )

    def _read_all(self, record_type: type[_Record], prefix: str) -> list[_Record]:
        entries = self._etcd.read_prefix(prefix).values
        records = (_readable_record(record_type, key, stored) for key, stored in entries.items())
        return [record for record in records if record is not None]

    def _password_setter(self, password: str) -> Callable[[auth_pb2.UserRecord], _Effect]:
        """Returns the change that sets a password. It hashes once, however often the change is attempted."""
        password_hash: str | None = None

        def set_hash(record: auth_pb2.UserRecord) -> _Effect:
            nonlocal password_hash
            password_hash = password_hash or self._passwords.hash(password)
            record.password_hash = password_hash
            return _Effect.TAKES

        return set_hash

    def _set_entitlements(
        self,
        account: _AccountRef[_Record],
        scopes: Sequence[str] | None,
        audiences: Sequence[str] | None,
        actor: str,
    ) -> tuple[_Record, int]:
        def set_entitlements(record: _Record) -> _Effect:
            return _set_entitlements(record, scopes, audiences)

        reason = f"{account.kind} may do less"
        return self._retry(account, lambda: self._try_change(account, set_entitlements, actor=actor, reason=reason))

    def _delete(self, account: _AccountRef[_Record], actor: str) -> int:
        def attempt() -> int | None:
            stored = self._etcd.read(account.key).values.get(account.key)
            if stored is None:
                raise NotFound(f"there is no {account}")
            return self._revocation.revoke(
                account.scope,
                actor=actor,
                reason=f"{account.kind} deleted",
                extra_conditions=[Unchanged(account.key, stored.mod_revision)],
                extra_operations=[Delete(account.key)],
            )

        return self._retry(account, attempt)

    def _retry(self, account: _AccountRef[_Record], attempt: Callable[[], _Result | None]) -> _Result:
        """Repeats an attempt that returns None because the account changed meanwhile."""
        for _ in range(_MAX_ATTEMPTS):
            result = attempt()
            if result is not None:
                return result
        raise FailedPrecondition(f"other requests are changing {account} at the same time; try again")

    def _try_change(
        self,
        account: _AccountRef[_Record],
        change: Callable[[_Record], _Effect],
        *,
        actor: str = "",
        reason: str = "",
        expected_revision: int | None = None,
    ) -> tuple[_Record, int] | None:
        """Reads a record, changes it and commits it. If that takes something away, the account is revoked as well.

        Returns the record, and the revision of the revocation or 0. Returns None if the record changed meanwhile, or is
        not of the expected revision. NotFound if there is no record.
        """
        stored = self._etcd.read(account.key).values.get(account.key)
        if stored is None:
            raise NotFound(f"there is no {account}; create it first")
        if expected_revision is not None and stored.mod_revision != expected_revision:
            return None
        record = _readable_record(account.record_type, account.key, stored)
        if record is None:
            raise FailedPrecondition(f"the record of {account} cannot be read by this version of credmesh")
        effect = change(record)
        if effect is _Effect.NOTHING:
            return record, 0
        unchanged, put = Unchanged(account.key, stored.mod_revision), Put(account.key, record.SerializeToString())
        if effect is _Effect.ADDS:
            return None if self._etcd.commit([unchanged], [put]) is None else (record, 0)
        revision = self._revocation.revoke(
            account.scope, actor=actor, reason=reason, extra_conditions=[unchanged], extra_operations=[put]
        )
        return None if revision is None else (record, revision)

    def _replace_outdated_hash(self, key: str, revision: int, record: auth_pb2.UserRecord, password: str) -> int:
        """Replaces a hash that was made with older parameters, if possible. Returns the revision of the record."""
        if not self._passwords.outdated(record.password_hash):
            return revision
        try:
            record.password_hash = self._passwords.hash(password)
            replaced_revision = self._etcd.commit([Unchanged(key, revision)], [Put(key, record.SerializeToString())])
        except (Refusal, EtcdUnavailable) as error:
            # The login succeeds regardless. If the commit happened after all, issuing notices the changed record and
            # authenticates again.
            _log.info("the password hash of %r stays outdated for now: %s", record.subject, error)
            return revision
        return revision if replaced_revision is None else replaced_revision


def _set_entitlements(
    record: auth_pb2.UserRecord | auth_pb2.ClientRecord, scopes: Sequence[str] | None, audiences: Sequence[str] | None
) -> _Effect:
    before = [*record.scopes], [*record.audiences]
    record.scopes[:] = before[0] if scopes is None else scopes
    record.audiences[:] = before[1] if audiences is None else audiences
    after = [*record.scopes], [*record.audiences]
    if before == after:
        return _Effect.NOTHING
    takes = any(set(old) - set(new) for old, new in zip(before, after, strict=True))
    return _Effect.TAKES if takes else _Effect.ADDS


def new_user(
    subject: str, password_hash: str, *, scopes: Iterable[str], audiences: Iterable[str]
) -> auth_pb2.UserRecord:
    """A new user's record."""
    return auth_pb2.UserRecord(
        format=FORMAT,
        subject=subject,
        password_hash=password_hash,
        scopes=scopes,
        audiences=audiences,
        created_at=_now(),
    )


def new_client(client_id: str, *, scopes: Iterable[str], audiences: Iterable[str]) -> tuple[auth_pb2.ClientRecord, str]:
    """A new client's record, and its secret. InvalidField if the id is FIRST_PARTY."""
    if client_id == FIRST_PARTY:
        problem = f"is {FIRST_PARTY!r}, the client id of credentials that are issued for a password; choose another"
        raise InvalidField("client_id", problem)
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


def _readable_record(record_type: type[_Record], key: str, stored: KeyValue) -> _Record | None:
    """The record; None, with an error in the log, if it cannot be read."""
    try:
        return parse_record(record_type, stored.value)
    except RecordError as error:
        _log.error("skipped %s: %s", key, error)
        return None


def _sha256_of(secret: str) -> bytes:
    """The hash of a client's secret; empty if it is not a well-formed one."""
    try:
        token = OpaqueToken.parse(secret)
    except ValueError:
        return b""
    return token.secret_sha256 if token.kind is OpaqueKind.CLIENT_SECRET else b""


def _now() -> timestamp_pb2.Timestamp:
    now = timestamp_pb2.Timestamp()
    now.GetCurrentTime()
    return now
