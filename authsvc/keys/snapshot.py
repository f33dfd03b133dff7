"""The signing keys and their rotation as etcd holds them, read at one revision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from authsvc.coordination import barriers
from authsvc.keys.algorithms import UnknownAlgorithm, require_known
from authsvc.keys.rotation import Key, KeyState, Request, RotationState
from authsvc.store.timestamps import seconds
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.etcd.client import Compacted, EtcdClient, EtcdUnavailable, KeyValue, RevisionNotReached
from interceptors.keyspace import Layout
from interceptors.stored_records import RecordError, parse_record
from interceptors.tokens.verification_key import read_key

__all__ = ["BARRIER", "KeySnapshot", "read_key_snapshot", "signing_kid"]

BARRIER: Final = "rotation"
"""The id of the rotation's barrier. There is one rotation at a time, so the barrier also serves as its lock."""

_log: Final = logging.getLogger("credmesh.auth.keys")

_MAX_ATTEMPTS: Final = 3

_STATES: Final = {
    mesh_pb2.VerificationKey.STATE_PREPARED: KeyState.PREPARED,
    mesh_pb2.VerificationKey.STATE_ACTIVE: KeyState.ACTIVE,
    mesh_pb2.VerificationKey.STATE_RETIRING: KeyState.RETIRING,
}

IsUsable = Callable[[str, KeyValue, KeyValue | None], bool]
"""Whether a key can sign, given its kid, its record and its sealed record."""


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """The state to decide on, and the revisions that a commit must find unchanged.

    records        the readable key records by kid
    revisions      by etcd key: the revision of everything that was read, 0 for what was absent
    signing_error  why no step must be decided: the signing record, or the key that it names, cannot be read
    """

    state: RotationState
    records: Mapping[str, mesh_pb2.VerificationKey]
    revisions: Mapping[str, int]
    signing_error: RecordError | None = None


def read_key_snapshot(etcd: EtcdClient, layout: Layout, *, usable: IsUsable | None = None) -> KeySnapshot:
    """Reads keys and rotation at one revision, and after that the acknowledgements of the barrier.

    usable: decides whether a key can sign. Without it the vault is not read and every key counts as usable: such a
    snapshot must not be used to activate a key.

    Key records that cannot be read are left out, with an error in the log.
    """
    for _ in range(_MAX_ATTEMPTS):
        try:
            return _read_once(etcd, layout, usable)
        except (Compacted, RevisionNotReached):
            # Between two of the requests etcd was compacted beyond this revision, or restored to one below it.
            continue
    raise EtcdUnavailable("etcd was compacted or restored each time while the keys were read; try again")


def signing_kid(entry: KeyValue | None) -> str | None:
    """The kid that the signing record names; None if there is no such record. RecordError if it cannot be read."""
    return None if entry is None else parse_record(mesh_pb2.Signing, entry.value).kid


def _read_once(etcd: EtcdClient, layout: Layout, usable: IsUsable | None) -> KeySnapshot:
    barrier = layout.barrier(BARRIER)
    single = etcd.read(layout.signing, layout.rotation, barrier)
    entries = etcd.read_prefix(layout.keys, revision=single.revision).values
    vault = etcd.read_prefix(layout.vault, revision=single.revision).values if usable is not None else {}
    records, errors = _read_records(entries, layout)
    signing, signing_error = _read_signing(single.values.get(layout.signing), errors)
    barrier_revision = single.values[barrier].mod_revision if barrier in single.values else 0

    def is_usable(kid: str, record: mesh_pb2.VerificationKey) -> bool:
        if usable is None or _STATES[record.state] is KeyState.RETIRING:
            return True
        return usable(kid, entries[layout.key(kid)], vault.get(layout.sealed_key(kid)))

    keys = tuple(
        _key(record, entries[layout.key(kid)].mod_revision, is_usable(kid, record)) for kid, record in records.items()
    )
    waiting_for = frozenset[str]()
    if barrier_revision and any(key.state is KeyState.PREPARED for key in keys):
        waiting_for = barriers.read_unacknowledged_nodes(etcd, layout, BARRIER, barrier_revision)
    state = RotationState(
        keys=keys,
        signing=signing,
        request=_read_request(single.values.get(layout.rotation)),
        barrier_revision=barrier_revision,
        waiting_for=waiting_for,
    )
    revisions = dict.fromkeys((layout.signing, layout.rotation, barrier), 0)
    for values in (single.values, entries, vault):
        revisions.update({name: entry.mod_revision for name, entry in values.items()})
    return KeySnapshot(state, records, revisions, signing_error)


def _read_records(
    entries: Mapping[str, KeyValue], layout: Layout
) -> tuple[dict[str, mesh_pb2.VerificationKey], dict[str, RecordError]]:
    """The key records by kid, and the errors of those that cannot be read."""
    records: dict[str, mesh_pb2.VerificationKey] = {}
    errors: dict[str, RecordError] = {}
    for name, entry in sorted(entries.items()):
        kid = layout.name(name, layout.keys)
        try:
            records[kid] = _parse_key_record(kid, entry.value)
        except RecordError as error:
            errors[kid] = error
            _log.error("skipped %s: %s", name, error)
    return records, errors


def _parse_key_record(kid: str, value: bytes) -> mesh_pb2.VerificationKey:
    read_key(value)
    record = parse_record(mesh_pb2.VerificationKey, value)
    if record.kid != kid:
        raise RecordError(f"the record is that of kid {record.kid!r}, which belongs at another etcd key")
    if record.state not in _STATES:
        raise RecordError(f"state {record.state} is not known here; is this replica older than the mesh?")
    return record


def _key(record: mesh_pb2.VerificationKey, revision: int, usable: bool) -> Key:
    return Key(
        kid=record.kid,
        algorithm=record.algorithm,
        state=_STATES[record.state],
        prepared_at=seconds(record.prepared_at),
        activated_at=seconds(record.activated_at),
        remove_at=seconds(record.remove_at),
        revision=revision,
        usable=usable,
    )


def _read_signing(entry: KeyValue | None, errors: Mapping[str, RecordError]) -> tuple[str | None, RecordError | None]:
    """The kid that the signing record names, and the error of that record or of that key's record."""
    try:
        kid = signing_kid(entry)
    except RecordError as error:
        return None, error
    return kid, None if kid is None else errors.get(kid)


def _read_request(entry: KeyValue | None) -> Request | None:
    if entry is None:
        return None
    try:
        request = parse_record(auth_pb2.RotationRequest, entry.value)
        if request.algorithm:
            require_known(request.algorithm)
    except (RecordError, UnknownAlgorithm) as error:
        _log.error("skipped the rotation request: %s", error)
        return None
    return Request(request.algorithm, request.actor)
