"""Requesting a rotation, on any replica, and finding the key that answers the request. The leader does the work."""

from __future__ import annotations

import time
from collections.abc import Callable

from authsvc.audit import audit
from authsvc.keys import algorithms
from authsvc.keys.rotation import KeyState
from authsvc.keys.snapshot import KeySnapshot, read_key_snapshot
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import auth_pb2
from interceptors.errors import CredmeshError
from interceptors.etcd.client import EtcdClient, KeyValue, Put, Unchanged
from interceptors.keyspace import Layout
from interceptors.stored_records import FORMAT, parse_record

__all__ = ["RotationBusy", "find_requested_key", "request_rotation"]


class RotationBusy(CredmeshError):
    """A rotation to another algorithm was requested, and no leader has started it yet. Retry in a moment."""


def request_rotation(
    etcd: EtcdClient, layout: Layout, algorithm: str, actor: str, *, clock: Callable[[], float] = time.time
) -> str | None:
    """Requests a new signing key from the leader, or joins a rotation to such a key that is under way.

    algorithm: "" for the service's default.

    Returns the kid if the key exists already, else None: `find_requested_key` finds it later. Raises UnknownAlgorithm,
    RotationBusy, RecordError (there is a request that cannot be read) and EtcdUnavailable.
    """
    if algorithm:
        algorithms.require_known(algorithm)
    while True:
        kid = _prepared_kid(read_key_snapshot(etcd, layout), algorithm)
        if kid is not None:
            return kid
        existing = etcd.read(layout.rotation).values.get(layout.rotation)
        if existing is not None:
            requested = parse_record(auth_pb2.RotationRequest, existing.value).algorithm
            if algorithm in ("", requested):
                return None
            if requested:
                raise RotationBusy(f"a rotation to {requested} was requested already, and no leader has started it yet")
            # The existing request leaves the algorithm open, so a request for this algorithm can replace it.
        if _put_request(etcd, layout, existing, algorithm, actor, clock()):
            return None


def find_requested_key(
    snapshot: KeySnapshot, layout: Layout, algorithm: str, kid: str | None
) -> tuple[str | None, bool]:
    """Returns the kid that answers an earlier request, None if it is not known yet, and whether that key signs. Pure.

    snapshot   read after the request was made
    kid        what `request_rotation` or the last call of this function returned
    """
    keys = {key.kid: key for key in snapshot.state.keys}
    if kid in keys:
        return kid, keys[kid].state is not KeyState.PREPARED
    # The key does not exist yet; or it was revoked before it signed, and another request has started the rotation over.
    kid = _prepared_kid(snapshot, algorithm)
    if kid is not None or snapshot.revisions.get(layout.rotation) or snapshot.state.signing not in keys:
        return kid, False
    # A request is deleted only when a PREPARED key answers it. No key is PREPARED now, so that key signs already.
    return snapshot.state.signing, True


def _prepared_kid(snapshot: KeySnapshot, algorithm: str) -> str | None:
    for key in snapshot.state.keys:
        if key.state is KeyState.PREPARED and algorithm in ("", key.algorithm):
            return key.kid
    return None


def _put_request(
    etcd: EtcdClient, layout: Layout, existing: KeyValue | None, algorithm: str, actor: str, now: float
) -> bool:
    """Puts a request in place of the existing one; False if that has changed."""
    request = auth_pb2.RotationRequest(format=FORMAT, algorithm=algorithm, actor=actor, requested_at=stamp(now))
    unchanged = Unchanged(layout.rotation, 0 if existing is None else existing.mod_revision)
    revision = etcd.commit([unchanged], [Put(layout.rotation, request.SerializeToString())])
    if revision is not None:
        audit("key.rotate", algorithm=algorithm, actor=actor, revision=revision)
    return revision is not None
