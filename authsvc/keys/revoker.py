"""Revocation of a signing key: the key is removed at once, and everything that it signed is refused.

Removing the key is not enough. A key that retires is removed too, and open streams outlive that. An attacker who has
the private key chooses the lifetime, the session and the epoch of forged tokens. So the same commit revokes the key's
own scope, which tells the nodes that the key did not just retire.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from authsvc.audit import audit
from authsvc.coordination import barriers
from authsvc.keys.signer_cache import KeyMissing
from authsvc.keys.snapshot import BARRIER, signing_kid
from authsvc.revocation.revoker import Revoker
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, EtcdUnavailable, KeyValue, Put, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import key_scope
from interceptors.stored_records import FORMAT, RecordError, parse_record

__all__ = ["KeyRevoker"]

_log: Final = logging.getLogger("credmesh.auth.keys")

_MAX_ATTEMPTS: Final = 10

_State = mesh_pb2.VerificationKey


class KeyRevoker:
    """Revokes signing keys, on any replica: revoking a compromised key must not wait for a leader."""

    def __init__(
        self, etcd: EtcdClient, layout: Layout, revocation: Revoker, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._revocation = revocation
        self._clock = clock

    def revoke(self, kid: str, actor: str, reason: str, *, extra_operations: Sequence[Put | Delete] = ()) -> int:
        """Revokes a key in one commit and returns its revision. Every node that has applied it refuses the key.

        If the key signs, no key signs until the leader has prepared a successor and the nodes have acknowledged that.
        If it is PREPARED, its rotation starts over. Raises KeyMissing if there is no such key, and EtcdUnavailable.

        extra_operations are part of the same commit.
        """
        for _ in range(_MAX_ATTEMPTS):
            revision = self._try_revoke(kid, actor, reason, extra_operations)
            if revision is not None:
                return revision
        raise EtcdUnavailable(f"key {kid!r} changes faster than it can be revoked; try again")

    def _try_revoke(self, kid: str, actor: str, reason: str, extra_operations: Sequence[Put | Delete]) -> int | None:
        """Revokes the key as it is now; None if it changed before the commit."""
        layout = self._layout
        key, sealed_key, barrier = layout.key(kid), layout.sealed_key(kid), layout.barrier(BARRIER)
        entries = self._etcd.read(key, sealed_key, layout.signing, layout.rotation, barrier).values
        if key not in entries and sealed_key not in entries:
            raise KeyMissing(f"there is no key {kid!r}")
        compared = [key, sealed_key]
        operations: list[Put | Delete] = [Delete(key), Delete(sealed_key), *extra_operations]
        record = _readable_record(kid, entries.get(key))
        prepared = record is not None and record.state == _State.STATE_PREPARED
        compared.append(layout.signing)
        signs = _readable_signing_kid(entries.get(layout.signing)) == kid
        if signs:
            operations.append(Delete(layout.signing))
        if prepared:
            compared.append(barrier)
            operations += barriers.remove_operations(layout, BARRIER)
        if (signs or prepared) and layout.rotation not in entries:
            # The request also wakes the leader.
            algorithm = record.algorithm if record is not None and prepared else ""
            request = auth_pb2.RotationRequest(
                format=FORMAT, algorithm=algorithm, actor=actor, requested_at=stamp(self._clock())
            )
            compared.append(layout.rotation)
            operations.append(Put(layout.rotation, request.SerializeToString()))
        conditions = [Unchanged(name, entries[name].mod_revision if name in entries else 0) for name in compared]
        revision = self._revocation.revoke(
            key_scope(kid), actor=actor, reason=reason, extra_conditions=conditions, extra_operations=operations
        )
        if revision is not None:
            state = "UNKNOWN" if record is None else _State.State.Name(record.state).removeprefix("STATE_")
            audit("key.revoke", kid=kid, state=state, signing=signs, actor=actor, reason=reason, revision=revision)
        return revision


def _readable_record(kid: str, entry: KeyValue | None) -> mesh_pb2.VerificationKey | None:
    """The key's record; None if there is none or it cannot be read. The key is revoked in either case."""
    if entry is None:
        return None
    try:
        return parse_record(mesh_pb2.VerificationKey, entry.value)
    except RecordError as error:
        _log.error("revoking key %r, whose record cannot be read: %s", kid, error)
        return None


def _readable_signing_kid(entry: KeyValue | None) -> str | None:
    try:
        return signing_kid(entry)
    except RecordError as error:
        _log.error("the signing record cannot be read, and stays as it is: %s", error)
        return None
