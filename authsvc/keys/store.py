"""How keys and their rotation lie in etcd: reading them, and what each step of a rotation changes.

A step is one transaction. Besides the leader's fence it compares everything that the decision rested on, so that a
commit which was made too late, or twice, changes nothing. In particular:

- PREPARED and the barrier come and go together. Preparing compares that there is no barrier: never two at once.
- Activating compares the barrier, which it removes, and the signing record, which it replaces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from authsvc import barriers
from authsvc.keys.algorithms import PrivateKey, UnknownAlgorithm, check, public_der
from authsvc.keys.rotation import (
    Activate,
    Discard,
    JoinRequest,
    Key,
    LowerBarrier,
    Prepare,
    RaiseBarrier,
    Remove,
    Request,
    Retire,
    RotationState,
    State,
    Step,
    Wait,
)
from authsvc.keys.vault import Vault
from authsvc.records import FORMAT, RecordError, parse_record
from authsvc.times import seconds, stamp
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.etcd.client import (
    Compacted,
    CreatedAt,
    Delete,
    EtcdClient,
    EtcdUnavailable,
    KeyValue,
    Put,
    Unchanged,
)
from interceptors.etcd.layout import Layout
from interceptors.keys import read_key

__all__ = ["BARRIER", "Commit", "Held", "NewKey", "change", "read_held"]

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
class Held:
    """What etcd holds: the state to decide on, and what a commit must find unchanged.

    records    the readable key records by kid
    revisions  by etcd key: the revision of everything that was looked at, 0 for what was absent
    trouble    why nothing must be decided on this: the signing record, or the key that it names, cannot be read
    """

    state: RotationState
    records: Mapping[str, mesh_pb2.VerificationKey]
    revisions: Mapping[str, int]
    trouble: RecordError | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A private key that was just made, and is not in etcd yet."""

    kid: str
    algorithm: str
    private_key: PrivateKey


@dataclass(frozen=True, slots=True)
class Commit:
    """The arguments of EtcdClient.commit."""

    conditions: Sequence[Unchanged | CreatedAt]
    operations: Sequence[Put | Delete]


def read_held(
    etcd: EtcdClient, layout: Layout, *, usable: Callable[[str, KeyValue, KeyValue | None], bool] | None = None
) -> Held:
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
) -> Held:
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
    return Held(state, records, revisions, trouble)


def change(
    step: Step, held: Held, layout: Layout, *, now: float, new_key: NewKey | None = None, vault: Vault | None = None
) -> Commit:
    """The transaction that carries out a step, without the leader's fence. Pure, but for the vault's nonce.

    now is in seconds since 1970. Prepare needs a new key and the vault; Wait changes nothing.
    """
    match step:
        case Prepare():
            if new_key is None or vault is None:
                raise ValueError("preparing needs a new key and the vault")
            return _prepare(new_key, vault, held, layout, now)
        case RaiseBarrier(kid):
            touched = [layout.key(kid), layout.barrier(BARRIER)]
            return _commit(held, layout, touched, [barriers.raised(layout, BARRIER, _purpose(kid))])
        case Activate():
            return _activate(step, held, layout, now)
        case JoinRequest(kid):
            return _commit(held, layout, [layout.key(kid), layout.rotation], [Delete(layout.rotation)])
        case Retire(kid, remove_at):
            touched = [layout.key(kid), layout.signing]
            return _commit(held, layout, touched, [_retired(held.records[kid], layout, now, remove_at)])
        case Remove(kid):
            touched = [layout.key(kid), layout.signing]
            return _commit(held, layout, touched, [Delete(layout.key(kid)), Delete(layout.sealed_key(kid))])
        case Discard(kid):
            return _discard(kid, held, layout, now)
        case LowerBarrier():
            return _commit(held, layout, [layout.barrier(BARRIER)], barriers.lowered(layout, BARRIER))
        case Wait():
            return Commit((), ())
    assert_never(step)


def _prepare(new: NewKey, vault: Vault, held: Held, layout: Layout, now: float) -> Commit:
    record = mesh_pb2.VerificationKey(
        format=FORMAT,
        kid=new.kid,
        algorithm=new.algorithm,
        public_key=public_der(new.private_key),
        state=mesh_pb2.VerificationKey.STATE_PREPARED,
        prepared_at=stamp(now),
    )
    sealed = vault.seal(new.kid, new.private_key)
    operations: list[Put | Delete] = [
        Put(layout.key(new.kid), record.SerializeToString()),
        Put(layout.sealed_key(new.kid), sealed.SerializeToString()),
        barriers.raised(layout, BARRIER, _purpose(new.kid)),
    ]
    if held.state.request is not None:
        operations.append(Delete(layout.rotation))
    compared = [
        layout.key(new.kid),
        layout.sealed_key(new.kid),
        layout.barrier(BARRIER),
        layout.signing,
        layout.rotation,
    ]
    return _commit(held, layout, compared, operations)


def _activate(step: Activate, held: Held, layout: Layout, now: float) -> Commit:
    active = mesh_pb2.VerificationKey()
    active.CopyFrom(held.records[step.kid])
    active.state = mesh_pb2.VerificationKey.STATE_ACTIVE
    active.activated_at.CopyFrom(stamp(now))
    signing = mesh_pb2.Signing(format=FORMAT, kid=step.kid)
    operations: list[Put | Delete] = [
        Put(layout.key(step.kid), active.SerializeToString()),
        *(_retired(held.records[kid], layout, now, step.remove_at) for kid in step.retire),
        Put(layout.signing, signing.SerializeToString()),
        *barriers.lowered(layout, BARRIER),
    ]
    compared = [layout.signing, layout.barrier(BARRIER), layout.sealed_key(step.kid)]
    compared += [layout.key(kid) for kid in (step.kid, *step.retire)]
    return _commit(held, layout, compared, operations)


def _discard(kid: str, held: Held, layout: Layout, now: float) -> Commit:
    operations: list[Put | Delete] = [
        Delete(layout.key(kid)),
        Delete(layout.sealed_key(kid)),
        *barriers.lowered(layout, BARRIER),
    ]
    if held.state.request is None and not held.revisions[layout.rotation]:
        request = auth_pb2.RotationRequest(
            format=FORMAT, algorithm=held.records[kid].algorithm, actor="rotation", requested_at=stamp(now)
        )
        operations.append(Put(layout.rotation, request.SerializeToString()))
    return _commit(held, layout, [layout.key(kid), layout.rotation], operations)


def _retired(record: mesh_pb2.VerificationKey, layout: Layout, now: float, remove_at: float) -> Put:
    retiring = mesh_pb2.VerificationKey()
    retiring.CopyFrom(record)
    retiring.state = mesh_pb2.VerificationKey.STATE_RETIRING
    retiring.retired_at.CopyFrom(stamp(now))
    retiring.remove_at.CopyFrom(stamp(remove_at))
    return Put(layout.key(record.kid), retiring.SerializeToString())


def _commit(held: Held, layout: Layout, compared: Sequence[str], operations: Sequence[Put | Delete]) -> Commit:
    conditions = [Unchanged(name, held.revisions.get(name, 0)) for name in compared]
    # What changes below mesh/ moves the beacon too, by which nodes prove how fresh they are.
    if any(operation.key.startswith(layout.mesh) for operation in operations):
        operations = [*operations, Put(layout.beacon, b"")]
    return Commit(conditions, operations)


def _purpose(kid: str) -> str:
    return f"key {kid}"


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
