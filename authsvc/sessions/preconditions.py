"""The preconditions of a credential: account, session, epochs of its scopes, and signing key, as of one etcd revision.

Issuing reads all of them in one transaction, and commits only if none of them has changed since. So no credential is
issued across a revocation, on an account that is being deleted, or with a signing key that was just replaced.

The same read proves that the issuing lifetime is in force at its revision. From the lifetimes in force a revocation
learns how long its epoch has to stay in etcd (see authsvc.revocation.lifetimes).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from authsvc.accounts.principal import FIRST_PARTY
from authsvc.keys.snapshot import signing_kid
from authsvc.revocation.lifetimes import IssuingLifetime
from authsvc.sessions.grants import Entitlements
from credmesh.store.v1 import auth_pb2
from interceptors.errors import CredmeshError, Reason, Refusal
from interceptors.etcd.client import Condition, EtcdClient, KeyValue, Present, Unchanged, UnwrittenSince
from interceptors.keyspace import Layout
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from interceptors.stored_records import RecordError, parse_record

__all__ = [
    "IssuancePreconditions",
    "NoSigningKey",
    "PreconditionsChanged",
    "SessionMissing",
    "account_key",
    "conditions_since_epoch",
    "read_preconditions",
    "read_session",
    "retry_on_change",
]

T = TypeVar("T")

_MAX_WAIT_SECONDS: Final = 2.0
_MIN_ATTEMPTS: Final = 3
_RETRY_INTERVAL_SECONDS: Final = 0.05


class PreconditionsChanged(CredmeshError):
    """A precondition changed between the read and the commit. Read all of them again."""


class NoSigningKey(CredmeshError):
    """No key signs at the moment: the mesh is new, or its key was revoked and the successor is not ready yet."""


class SessionMissing(CredmeshError):
    """The session has no record. `revoked` tells a session that was revoked recently from an unknown one."""

    def __init__(self, session_id: str, *, revoked: bool) -> None:
        super().__init__(f"session {session_id!r} " + ("was ended" if revoked else "is not known"))
        self.revoked = revoked


@dataclass(frozen=True, slots=True)
class IssuancePreconditions:
    """The preconditions of one credential, as of one read.

    revision          the etcd revision of the read
    epochs            the epochs of the credential's scopes, for each scope that was revoked
    account           the user's or client's record; None if there is none
    account_revision  the revision of that record; 0 if there is none
    signing_kid       the kid of the key that signs; None if no key signs
    signing_revision  the revision of the signing record, which names that key; 0 if there is none
    session           the session's record; None if there is none
    session_revision  the revision of that record; 0 if there is none
    session_created   the revision that created the session's record; 0 if there is none
    conditions        for the commit: none of the above has changed
    """

    revision: int
    epochs: Mapping[str, int]
    account: Entitlements | None
    account_revision: int
    signing_kid: str | None
    signing_revision: int
    session: auth_pb2.SessionRecord | None
    session_revision: int
    session_created: int
    conditions: tuple[Unchanged, ...]


def account_key(layout: Layout, subject: str, client_id: str) -> str:
    """The etcd key of a credential's account: the user if the credential was issued for a password, else the client."""
    return layout.user(subject) if client_id == FIRST_PARTY else layout.client(client_id)


def read_preconditions(
    lifetime: IssuingLifetime,
    layout: Layout,
    *,
    subject: str,
    client_id: str,
    audiences: Iterable[str],
    session_id: str | None = None,
) -> IssuancePreconditions:
    """Reads the preconditions of a credential in one linearizable transaction.

    lifetime: that under which the credential is issued. The caller must have taken the time from which it counts
    before.

    Raises EtcdUnavailable. Refusal MESH_NOT_READY if a record cannot be read, or if etcd has lost a part of its
    history.
    """
    epoch_keys = {
        layout.epoch(scope): scope for scope in _scopes_of_credential(subject, client_id, audiences, session_id)
    }
    account = account_key(layout, subject, client_id)
    keys = [account, layout.signing, *epoch_keys]
    session = "" if session_id is None else layout.session(session_id)
    if session:
        keys.append(session)
    snapshot = lifetime.read_in_force(*keys)
    values = snapshot.values
    revisions = {key: values[key].mod_revision if key in values else 0 for key in keys}
    stored = values.get(session)
    return IssuancePreconditions(
        revision=snapshot.revision,
        epochs={scope: revisions[key] for key, scope in epoch_keys.items() if revisions[key]},
        account=_parse_account(account, values.get(account), client_id),
        account_revision=revisions[account],
        signing_kid=_parse_signing_kid(layout, values.get(layout.signing)),
        signing_revision=revisions[layout.signing],
        session=None if stored is None else _parse_session(session, stored.value),
        session_revision=0 if stored is None else stored.mod_revision,
        session_created=0 if stored is None else stored.create_revision,
        conditions=tuple(Unchanged(key, revision) for key, revision in revisions.items()),
    )


def read_session(
    etcd: EtcdClient, lifetime: IssuingLifetime, layout: Layout, session_id: str
) -> tuple[auth_pb2.SessionRecord, IssuancePreconditions]:
    """Reads a session's record and the preconditions of its next credential, as of one revision.

    Raises SessionMissing, and what `read_preconditions` raises.
    """
    key, epoch = layout.session(session_id), layout.epoch(session_scope(session_id))
    values = etcd.read(key, epoch).values
    record = _parse_session(key, values[key].value) if key in values else None
    while record is not None:
        # The record determines which preconditions to read. They are those of the record that is read with them only if
        # that has the same subject and audiences.
        preconditions = read_preconditions(
            lifetime,
            layout,
            subject=record.subject,
            client_id=record.client_id,
            audiences=record.audiences,
            session_id=session_id,
        )
        current = preconditions.session
        if current is not None and current.audiences == record.audiences and current.subject == record.subject:
            return current, preconditions
        record = current
        values = etcd.read(epoch).values
    raise SessionMissing(session_id, revoked=epoch in values)


def conditions_since_epoch(layout: Layout, record: auth_pb2.SessionRecord) -> list[Condition]:
    """Conditions that hold if a session's account and scopes have not changed since the session's epoch.

    At its epoch, no scope of the session was revoked, and the record was granted no more than the account held. So
    while these conditions hold, the session is not revoked, and its account still holds all that the record grants.
    """
    scopes = _scopes_of_credential(record.subject, record.client_id, record.audiences, record.session_id)
    account = account_key(layout, record.subject, record.client_id)
    return [
        Present(account),
        UnwrittenSince(account, record.epoch),
        *(UnwrittenSince(layout.epoch(scope), record.epoch) for scope in scopes),
    ]


def retry_on_change(attempt: Callable[[], T]) -> T:
    """Repeats an attempt that raises PreconditionsChanged or NoSigningKey, for about two seconds.

    After that Refusal MESH_NOT_READY, which makes the caller retry.
    """
    deadline = time.monotonic() + _MAX_WAIT_SECONDS
    attempts = 0
    while True:
        attempts += 1
        try:
            return attempt()
        except NoSigningKey as error:
            if time.monotonic() >= deadline:
                raise Refusal(Reason.MESH_NOT_READY, str(error)) from error
            time.sleep(_RETRY_INTERVAL_SECONDS)
        except PreconditionsChanged as error:
            # One attempt that checks a password may take all of the time. It is repeated once or twice nevertheless.
            if attempts >= _MIN_ATTEMPTS and time.monotonic() >= deadline:
                raise Refusal(Reason.MESH_NOT_READY, f"{error}, in each of {attempts} attempts") from error


def _scopes_of_credential(subject: str, client_id: str, audiences: Iterable[str], session_id: str | None) -> list[str]:
    scopes = [EVERYONE, subject_scope(subject), client_scope(client_id), *map(audience_scope, audiences)]
    if session_id is not None:
        scopes.append(session_scope(session_id))
    return scopes


def _parse_account(key: str, stored: KeyValue | None, client_id: str) -> Entitlements | None:
    if stored is None:
        return None
    try:
        if client_id == FIRST_PARTY:
            return parse_record(auth_pb2.UserRecord, stored.value)
        return parse_record(auth_pb2.ClientRecord, stored.value)
    except RecordError as error:
        raise _unreadable(key, error) from error


def _parse_signing_kid(layout: Layout, stored: KeyValue | None) -> str | None:
    try:
        return signing_kid(stored)
    except RecordError as error:
        raise _unreadable(layout.signing, error) from error


def _parse_session(key: str, value: bytes) -> auth_pb2.SessionRecord:
    try:
        record = parse_record(auth_pb2.SessionRecord, value)
    except RecordError as error:
        raise _unreadable(key, error) from error
    if not key.endswith("/" + record.session_id):
        raise _unreadable(key, "it is the record of another session")
    return record


def _unreadable(key: str, error: object) -> Refusal:
    # Not "the session is missing": this replica must neither use nor end a session that a newer replica wrote.
    return Refusal(Reason.MESH_NOT_READY, f"{key} cannot be read: {error}")
