"""What a credential stands on, as of one etcd revision: its account, its session, its scopes' epochs, the signing key.

Whatever issues reads all of it in one transaction and commits only if none of it has changed: so nothing is issued
across a revocation, on an account that is being deleted, or with a key that was just replaced. And as of that read the
lifetime that it issues under is in force, so that whoever revokes knows how long what is issued has to be outlived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from authsvc.accounts.principal import FIRST_PARTY
from authsvc.revocation.lifetimes import Lifetime
from authsvc.sessions.grants import Holder
from authsvc.store.records import RecordError, parse_record
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.errors import CredmeshError, Reason, Refusal
from interceptors.etcd.client import EtcdClient, Snapshot, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope

__all__ = [
    "Changed",
    "Ended",
    "IssuancePreconditions",
    "NoSigningKey",
    "account_key",
    "persist",
    "read_preconditions",
    "read_session",
]

T = TypeVar("T")

_TRIES: Final = 3
_PATIENCE: Final = 2.0
_PAUSE: Final = 0.05


class Changed(CredmeshError):
    """What a credential was to stand on changed before it was committed: read everything anew."""


class NoSigningKey(CredmeshError):
    """No key signs at this moment: the mesh is new, or its key was revoked and the successor is being made."""


class Ended(CredmeshError):
    """The session has no record (any more). `revoked` says that it was ended not long ago, rather than never was."""

    def __init__(self, session_id: str, *, revoked: bool) -> None:
        super().__init__(f"session {session_id!r} " + ("was ended" if revoked else "is not known"))
        self.revoked = revoked


@dataclass(frozen=True, slots=True)
class IssuancePreconditions:
    """What a credential stands on.

    revision          the etcd revision of all of this
    epochs            the credential's scopes that were ever revoked: the revision of each one's last revocation
    holder            the user or client as it is; None if there is none
    account_revision  the revision of its record; 0 if there is none
    signing           the kid of the key that signs; None if none does
    session           the session's record; None if there is none
    session_revision  its revision; 0 if there is none
    session_created   the revision that created it; 0 if there is none
    conditions        hold as long as none of it has changed
    """

    revision: int
    epochs: Mapping[str, int]
    holder: Holder | None
    account_revision: int
    signing: str | None
    session: auth_pb2.SessionRecord | None
    session_revision: int
    session_created: int
    conditions: tuple[Unchanged, ...]


def account_key(layout: Layout, subject: str, client_id: str) -> str:
    """The etcd key of the account behind a credential: a user's where a password was shown, else a client's."""
    return layout.user(subject) if client_id == FIRST_PARTY else layout.client(client_id)


def read_preconditions(
    lifetime: Lifetime,
    layout: Layout,
    *,
    subject: str,
    client_id: str,
    audiences: Iterable[str],
    session_id: str | None = None,
) -> IssuancePreconditions:
    """Reads what a credential stands on, in one linearizable transaction.

    lifetime: what it is to be issued under; the time from which that counts was taken before.

    EtcdUnavailable; Refusal MESH_NOT_READY if a record is of a newer format than this replica knows.
    """
    scopes = [EVERYONE, subject_scope(subject), client_scope(client_id), *map(audience_scope, audiences)]
    if session_id is not None:
        scopes.append(session_scope(session_id))
    epoch_keys = {layout.epoch(scope): scope for scope in scopes}
    account = account_key(layout, subject, client_id)
    keys = [account, layout.signing, *epoch_keys]
    session = "" if session_id is None else layout.session(session_id)
    if session:
        keys.append(session)
    found = lifetime.read(*keys)
    revisions = {key: found.values[key].mod_revision if key in found.values else 0 for key in keys}
    stored = found.values.get(session)
    return IssuancePreconditions(
        revision=found.revision,
        epochs={scope: revisions[key] for key, scope in epoch_keys.items() if revisions[key]},
        holder=_holder(found, account, client_id),
        account_revision=revisions[account],
        signing=_signing(found, layout),
        session=None if stored is None else _session(session, stored.value),
        session_revision=0 if stored is None else stored.mod_revision,
        session_created=0 if stored is None else stored.create_revision,
        conditions=tuple(Unchanged(key, revision) for key, revision in revisions.items()),
    )


def read_session(
    etcd: EtcdClient, lifetime: Lifetime, layout: Layout, session_id: str
) -> tuple[auth_pb2.SessionRecord, IssuancePreconditions]:
    """Reads a session's record and what it stands on, all as of one revision. Raises Ended; else as
    `read_preconditions`.
    """
    key, epoch = layout.session(session_id), layout.epoch(session_scope(session_id))
    first = etcd.read(key, epoch)
    record = _session(key, first.values[key].value) if key in first.values else None
    while record is not None:
        # What a session stands on follows from its record; should that be another one by now, so may this be.
        preconditions = read_preconditions(
            lifetime,
            layout,
            subject=record.subject,
            client_id=record.client_id,
            audiences=record.audiences,
            session_id=session_id,
        )
        now = preconditions.session
        if now is not None and now.audiences == record.audiences and now.subject == record.subject:
            return now, preconditions
        record = now
        first = etcd.read(epoch)
    raise Ended(session_id, revoked=epoch in first.values)


def persist(attempt: Callable[[], T]) -> T:
    """Makes attempts until one raises neither Changed nor NoSigningKey, for as long as a caller can be kept waiting.

    Then Refusal MESH_NOT_READY, which tells the caller to retry.
    """
    deadline = time.monotonic() + _PATIENCE
    tries = 0
    while True:
        tries += 1
        try:
            return attempt()
        except NoSigningKey as error:
            if time.monotonic() >= deadline:
                raise Refusal(Reason.MESH_NOT_READY, str(error)) from error
            time.sleep(_PAUSE)
        except Changed as error:
            # An attempt that has to check a password may take all of the time: it is worth another one or two.
            if tries >= _TRIES and time.monotonic() >= deadline:
                raise Refusal(Reason.MESH_NOT_READY, f"{error}, and again and again: {tries} times") from error


def _holder(found: Snapshot, key: str, client_id: str) -> Holder | None:
    stored = found.values.get(key)
    if stored is None:
        return None
    try:
        if client_id == FIRST_PARTY:
            return parse_record(auth_pb2.UserRecord, stored.value)
        return parse_record(auth_pb2.ClientRecord, stored.value)
    except RecordError as error:
        raise _unreadable(key, error) from error


def _signing(found: Snapshot, layout: Layout) -> str | None:
    stored = found.values.get(layout.signing)
    if stored is None:
        return None
    try:
        return parse_record(mesh_pb2.Signing, stored.value).kid
    except RecordError as error:
        raise _unreadable(layout.signing, error) from error


def _session(key: str, value: bytes) -> auth_pb2.SessionRecord:
    try:
        record = parse_record(auth_pb2.SessionRecord, value)
    except RecordError as error:
        raise _unreadable(key, error) from error
    if not key.endswith("/" + record.session_id):
        raise _unreadable(key, "it holds another session's record")
    return record


def _unreadable(key: str, error: object) -> Refusal:
    # Not "there is none": a session that a newer replica wrote must neither be used nor ended by this one.
    return Refusal(Reason.MESH_NOT_READY, f"{key} cannot be read: {error}")
