"""The etcd transaction of each step of a rotation.

A step is one transaction. Besides the leader's fence it compares everything that the decision rested on, so a commit
that comes too late or twice changes nothing. In particular:

- A PREPARED key and the barrier are put and removed together. Preparing compares that there is no barrier, so there are
  never two PREPARED keys.
- Activating compares the barrier, which it removes, and the signing record, which it replaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from authsvc.coordination import barriers
from authsvc.keys.algorithms import PrivateKey, public_der
from authsvc.keys.rotation import (
    Activate,
    Discard,
    JoinRequest,
    Prepare,
    RaiseBarrier,
    Remove,
    RemoveBarrier,
    Retire,
    Step,
    Wait,
)
from authsvc.keys.snapshot import BARRIER, KeySnapshot
from authsvc.keys.vault import Vault
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.etcd.client import CreatedAt, Delete, Put, Unchanged
from interceptors.keyspace import Layout, beacon_update
from interceptors.stored_records import FORMAT

__all__ = ["KeyTransaction", "NewKey", "transaction_for"]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A private key that was just generated and is not in etcd yet."""

    kid: str
    algorithm: str
    private_key: PrivateKey


@dataclass(frozen=True, slots=True)
class KeyTransaction:
    """The arguments of EtcdClient.commit."""

    conditions: Sequence[Unchanged | CreatedAt]
    operations: Sequence[Put | Delete]


def transaction_for(
    step: Step,
    snapshot: KeySnapshot,
    layout: Layout,
    *,
    now: float,
    new_key: NewKey | None = None,
    vault: Vault | None = None,
) -> KeyTransaction:
    """The transaction that carries out a step, without the leader's fence. Pure, except for the vault's nonce.

    now is in seconds since 1970. Prepare needs a new key and the vault. The transaction of Wait is empty.
    """
    match step:
        case Prepare():
            if new_key is None or vault is None:
                raise ValueError("Prepare needs a new key and the vault")
            return _prepare(new_key, vault, snapshot, layout, now)
        case RaiseBarrier(kid):
            compared = [layout.key(kid), layout.barrier(BARRIER)]
            return _transaction(snapshot, layout, compared, [_raise_barrier(layout, kid)])
        case Activate():
            return _activate(step, snapshot, layout, now)
        case JoinRequest(kid):
            return _transaction(snapshot, layout, [layout.key(kid), layout.rotation], [Delete(layout.rotation)])
        case Retire(kid, remove_at):
            compared = [layout.key(kid), layout.signing]
            return _transaction(
                snapshot, layout, compared, [_put_retired(snapshot.records[kid], layout, now, remove_at)]
            )
        case Remove(kid):
            compared = [layout.key(kid), layout.signing]
            return _transaction(snapshot, layout, compared, [Delete(layout.key(kid)), Delete(layout.sealed_key(kid))])
        case Discard(kid):
            return _discard(kid, snapshot, layout, now)
        case RemoveBarrier():
            operations = barriers.remove_operations(layout, BARRIER)
            return _transaction(snapshot, layout, [layout.barrier(BARRIER)], operations)
        case Wait():
            return KeyTransaction((), ())
    assert_never(step)


def _prepare(new: NewKey, vault: Vault, snapshot: KeySnapshot, layout: Layout, now: float) -> KeyTransaction:
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
        _raise_barrier(layout, new.kid),
    ]
    if snapshot.state.request is not None:
        operations.append(Delete(layout.rotation))
    compared = [
        layout.key(new.kid),
        layout.sealed_key(new.kid),
        layout.barrier(BARRIER),
        layout.signing,
        layout.rotation,
    ]
    return _transaction(snapshot, layout, compared, operations)


def _activate(step: Activate, snapshot: KeySnapshot, layout: Layout, now: float) -> KeyTransaction:
    active = mesh_pb2.VerificationKey()
    active.CopyFrom(snapshot.records[step.kid])
    active.state = mesh_pb2.VerificationKey.STATE_ACTIVE
    active.activated_at.CopyFrom(stamp(now))
    operations: list[Put | Delete] = [
        Put(layout.key(step.kid), active.SerializeToString()),
        *(_put_retired(snapshot.records[kid], layout, now, step.remove_at) for kid in step.retire),
        Put(layout.signing, mesh_pb2.Signing(format=FORMAT, kid=step.kid).SerializeToString()),
        *barriers.remove_operations(layout, BARRIER),
    ]
    compared = [layout.signing, layout.barrier(BARRIER), layout.sealed_key(step.kid)]
    compared += [layout.key(kid) for kid in (step.kid, *step.retire)]
    return _transaction(snapshot, layout, compared, operations)


def _discard(kid: str, snapshot: KeySnapshot, layout: Layout, now: float) -> KeyTransaction:
    operations: list[Put | Delete] = [
        Delete(layout.key(kid)),
        Delete(layout.sealed_key(kid)),
        *barriers.remove_operations(layout, BARRIER),
    ]
    if snapshot.state.request is None and not snapshot.revisions[layout.rotation]:
        request = auth_pb2.RotationRequest(
            format=FORMAT, algorithm=snapshot.records[kid].algorithm, actor="rotation", requested_at=stamp(now)
        )
        operations.append(Put(layout.rotation, request.SerializeToString()))
    return _transaction(snapshot, layout, [layout.key(kid), layout.rotation], operations)


def _put_retired(record: mesh_pb2.VerificationKey, layout: Layout, now: float, remove_at: float) -> Put:
    retiring = mesh_pb2.VerificationKey()
    retiring.CopyFrom(record)
    retiring.state = mesh_pb2.VerificationKey.STATE_RETIRING
    retiring.retired_at.CopyFrom(stamp(now))
    retiring.remove_at.CopyFrom(stamp(remove_at))
    return Put(layout.key(record.kid), retiring.SerializeToString())


def _raise_barrier(layout: Layout, kid: str) -> Put:
    return barriers.raise_operation(layout, BARRIER, f"key {kid}")


def _transaction(
    snapshot: KeySnapshot, layout: Layout, compared: Sequence[str], operations: Sequence[Put | Delete]
) -> KeyTransaction:
    conditions = [Unchanged(name, snapshot.revisions.get(name, 0)) for name in compared]
    # A commit that changes a key below mesh/ puts the beacon too, by which nodes prove their freshness.
    if any(operation.key.startswith(layout.mesh) for operation in operations):
        operations = [*operations, beacon_update(layout)]
    return KeyTransaction(conditions, operations)
