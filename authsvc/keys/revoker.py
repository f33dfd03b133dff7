"""Forced revocation of a signing key: it is gone at once, and so is everything that it signed.

That the key is gone is not enough. A key that retires goes too, and streams that follow their session outlive that, as
they must; and whoever has the key has chosen how long his tokens live, and of which session and epoch they are. So the
key's own scope is revoked in the same commit, which tells the nodes that it did not just retire.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from authsvc.audit import audit
from authsvc.coordination import barriers
from authsvc.keys.ring import KeyMissing
from authsvc.keys.snapshot import BARRIER
from authsvc.revocation.revoker import Revoker
from authsvc.store.records import FORMAT, RecordError, parse_record
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, EtcdUnavailable, KeyValue, Put, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import key_scope

__all__ = ["KeyRevoker"]

_log: Final = logging.getLogger("credmesh.auth.keys")

_ATTEMPTS: Final = 10

_State = mesh_pb2.VerificationKey


class KeyRevoker:
    """Revokes signing keys, on any replica: a compromised key must not wait for a leader."""

    def __init__(
        self, etcd: EtcdClient, layout: Layout, revocation: Revoker, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._revocation = revocation
        self._clock = clock

    def revoke(self, kid: str, actor: str, reason: str, *, extra_operations: Sequence[Put | Delete] = ()) -> int:
        """Removes a key in one commit, and returns its revision: every node that has applied it refuses the key.

        If the key signs, nothing signs until the leader has prepared a successor and the nodes have acknowledged it. If
        it was PREPARED, its rotation begins anew. Raises KeyMissing if there is no such key, and EtcdUnavailable.

        extra_operations are part of the same commit.
        """
        for _ in range(_ATTEMPTS):
            revision = self._try(kid, actor, reason, extra_operations)
            if revision is not None:
                return revision
        raise EtcdUnavailable(f"key {kid!r} changes faster than it can be revoked; try again")

    def _try(self, kid: str, actor: str, reason: str, extra_operations: Sequence[Put | Delete]) -> int | None:
        layout = self._layout
        key, sealed, barrier = layout.key(kid), layout.sealed_key(kid), layout.barrier(BARRIER)
        found = self._etcd.read(key, sealed, layout.signing, layout.rotation, barrier).values
        if key not in found and sealed not in found:
            raise KeyMissing(f"there is no key {kid!r}")
        compared = [key, sealed]
        operations: list[Put | Delete] = [Delete(key), Delete(sealed), *extra_operations]
        record = _record(kid, found.get(key))
        prepared = record is not None and record.state == _State.STATE_PREPARED
        compared.append(layout.signing)
        signs = _signing_kid(found.get(layout.signing)) == kid
        if signs:
            operations.append(Delete(layout.signing))
        if prepared:
            compared.append(barrier)
            operations += barriers.lowered(layout, BARRIER)
        if (signs or prepared) and layout.rotation not in found:
            # It wakes the leader, too.
            algorithm = record.algorithm if record is not None and prepared else ""
            request = auth_pb2.RotationRequest(
                format=FORMAT, algorithm=algorithm, actor=actor, requested_at=stamp(self._clock())
            )
            compared.append(layout.rotation)
            operations.append(Put(layout.rotation, request.SerializeToString()))
        conditions = [Unchanged(name, found[name].mod_revision if name in found else 0) for name in compared]
        revision = self._revocation.revoke(
            key_scope(kid), actor=actor, reason=reason, extra_conditions=conditions, extra_operations=operations
        )
        if revision is not None:
            state = "UNKNOWN" if record is None else _State.State.Name(record.state).removeprefix("STATE_")
            audit("key.revoke", kid=kid, state=state, signing=signs, actor=actor, reason=reason, revision=revision)
        return revision


def _record(kid: str, entry: KeyValue | None) -> mesh_pb2.VerificationKey | None:
    """The key's record, or None if there is none that can be read: then it is removed all the same."""
    if entry is None:
        return None
    try:
        return parse_record(mesh_pb2.VerificationKey, entry.value)
    except RecordError as error:
        _log.error("revoking key %r, whose record cannot be read: %s", kid, error)
        return None


def _signing_kid(entry: KeyValue | None) -> str | None:
    if entry is None:
        return None
    try:
        return parse_record(mesh_pb2.Signing, entry.value).kid
    except RecordError as error:
        _log.error("the signing record is left alone: %s", error)
        return None
