"""What etcd holds of keys and their rotation, read as of one revision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from authsvc.coordination import barriers
from authsvc.keys.algorithms import UnknownAlgorithm, check
from authsvc.keys.rotation import Key, Request, RotationState, State
from authsvc.store.records import RecordError, parse_record
from authsvc.store.timestamps import seconds
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.etcd.client import Compacted, EtcdClient, EtcdUnavailable, KeyValue
from interceptors.keyspace import Layout
from interceptors.tokens.verification_key import read_key

__all__ = ["BARRIER", "KeySnapshot", "read_key_snapshot"]

BARRIER: Final = "rotation"
"""The id of the rotation's barrier. There is one rotation at a time, so its barrier is its lock as well."""

_log: Final = logging.getLogger("credmesh.auth.keys")

_ATTEMPTS: Final = 3

_LIVES: Final = {
    mesh_pb2.VerificationKey.STATE_PREPARED: State.PREPARED,
    mesh_pb2.VerificationKey.STATE_ACTIVE: State.ACTIVE,
    mesh_pb2.VerificationKey.STATE_RETIRING: State.RETIRING,
}


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """What etcd holds: the state to decide on, and what a commit must find unchanged.

    records    the readable key records by kid
    revisions  by etcd key: the revision of everything that was looked at, 0 for what was absent
    trouble    why nothing must be decided on this: the signing record, or the key that it names, cannot be read
    """

    state: RotationState
    records: Mapping[str, mesh_pb2.VerificationKey]
    revisions: Mapping[str, int]
    trouble: RecordError | None = None


def read_key_snapshot(
    etcd: EtcdClient, layout: Layout, *, usable: Callable[[str, KeyValue, KeyValue | None], bool] | None = None
) -> KeySnapshot:
    """Reads keys and rotation, all as of one revision; who acknowledged is read after it.

    usable: tells from a kid, its record and its sealed record whether it can sign. Without it the vault is not looked
    at, and what is returned is good for looking at, not for activating. Records of keys that cannot be read are left
    out, with an error in the log.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _read_held(etcd, layout, usable)
        except Compacted:
            # Somebody compacted right up to this revision, between two of the requests.
            continue
    raise EtcdUnavailable("etcd compacts faster than the keys can be read")


def _read_held(
    etcd: EtcdClient, layout: Layout, usable: Callable[[str, KeyValue, KeyValue | None], bool] | None
) -> KeySnapshot:
    barrier = layout.barrier(BARRIER)
    fixed = etcd.read(layout.signing, layout.rotation, barrier)
    entries = etcd.read_prefix(layout.keys, revision=fixed.revision).values
    vault = etcd.read_prefix(layout.vault, revision=fixed.revision).values if usable is not None else {}
    records, troubles = _read_records(entries, layout)
    signing, trouble = _signing(fixed.values.get(layout.signing), troubles)
    raised_at = fixed.values[barrier].mod_revision if barrier in fixed.values else 0

    def is_usable(kid: str, record: mesh_pb2.VerificationKey) -> bool:
        if usable is None or _LIVES[record.state] is State.RETIRING:
            return True
        return usable(kid, entries[layout.key(kid)], vault.get(layout.sealed_key(kid)))

    keys = tuple(
        _key(record, entries[layout.key(kid)].mod_revision, is_usable(kid, record)) for kid, record in records.items()
    )
    waiting = frozenset[str]()
    if raised_at and any(key.state is State.PREPARED for key in keys):
        waiting = barriers.waits_for(etcd, layout, BARRIER, raised_at)
    state = RotationState(
        keys=keys,
        signing=signing,
        request=_request(fixed.values.get(layout.rotation)),
        barrier=raised_at,
        waiting_for=waiting,
    )
    revisions = dict.fromkeys((layout.signing, layout.rotation, barrier), 0)
    for found in (fixed.values, entries, vault):
        revisions.update({name: entry.mod_revision for name, entry in found.items()})
    return KeySnapshot(state, records, revisions, trouble)


def _read_records(
    entries: Mapping[str, KeyValue], layout: Layout
) -> tuple[dict[str, mesh_pb2.VerificationKey], dict[str, RecordError]]:
    """The key records by kid, and what is wrong with those that cannot be read."""
    records: dict[str, mesh_pb2.VerificationKey] = {}
    troubles: dict[str, RecordError] = {}
    for name, entry in sorted(entries.items()):
        kid = layout.name(name, layout.keys)
        try:
            records[kid] = _read(kid, entry.value)
        except RecordError as error:
            troubles[kid] = error
            _log.error("left alone %s: %s", name, error)
    return records, troubles


def _read(kid: str, value: bytes) -> mesh_pb2.VerificationKey:
    read_key(value)
    record = parse_record(mesh_pb2.VerificationKey, value)
    if record.kid != kid:
        raise RecordError(f"it holds kid {record.kid!r}, which belongs at another etcd key")
    if record.state not in _LIVES:
        raise RecordError(f"state {record.state} is not known here; is this replica older than the mesh?")
    return record


def _key(record: mesh_pb2.VerificationKey, revision: int, usable: bool) -> Key:
    return Key(
        kid=record.kid,
        algorithm=record.algorithm,
        state=_LIVES[record.state],
        prepared_at=seconds(record.prepared_at),
        activated_at=seconds(record.activated_at),
        remove_at=seconds(record.remove_at),
        revision=revision,
        usable=usable,
    )


def _signing(entry: KeyValue | None, troubles: Mapping[str, RecordError]) -> tuple[str | None, RecordError | None]:
    """The kid that the signing record names, and why that is not to be relied on."""
    if entry is None:
        return None, None
    try:
        kid = parse_record(mesh_pb2.Signing, entry.value).kid
    except RecordError as error:
        return None, error
    return kid, troubles.get(kid)


def _request(entry: KeyValue | None) -> Request | None:
    if entry is None:
        return None
    try:
        request = parse_record(auth_pb2.RotationRequest, entry.value)
        if request.algorithm:
            check(request.algorithm)
    except (RecordError, UnknownAlgorithm) as error:
        _log.error("left alone the rotation request: %s", error)
        return None
    return Request(request.algorithm, request.actor)
