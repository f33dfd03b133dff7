"""Asking for a rotation, and following it until its key signs. Any replica can; the leader does the work."""

from __future__ import annotations

import time
from collections.abc import Callable

from authsvc.audit import audit
from authsvc.keys import algorithms
from authsvc.keys.rotation import State
from authsvc.keys.snapshot import KeySnapshot, read_key_snapshot
from authsvc.store.records import FORMAT, parse_record
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import auth_pb2
from interceptors.errors import CredmeshError
from interceptors.etcd.client import EtcdClient, KeyValue, Put, Unchanged
from interceptors.keyspace import Layout

__all__ = ["RotationBusy", "follow", "request_rotation"]


class RotationBusy(CredmeshError):
    """A rotation to another algorithm was asked for, and no leader has taken it up yet. Ask again in a moment."""


def request_rotation(
    etcd: EtcdClient, layout: Layout, algorithm: str, actor: str, *, clock: Callable[[], float] = time.time
) -> str | None:
    """Asks the leader for a new signing key, or joins the rotation to such a key that is under way.

    algorithm is "" for the service's default. Returns the kid where it is known, else None: see `follow`. Raises
    UnknownAlgorithm, RotationBusy, RecordError (there is a request that cannot be read) and EtcdUnavailable.
    """
    if algorithm:
        algorithms.check(algorithm)
    while True:
        kid = _under_way(read_key_snapshot(etcd, layout), algorithm)
        if kid is not None:
            return kid
        lying = etcd.read(layout.rotation).values.get(layout.rotation)
        if lying is not None:
            asked = parse_record(auth_pb2.RotationRequest, lying.value).algorithm
            if algorithm in ("", asked):
                return None
            if asked:
                raise RotationBusy(f"a rotation to {asked} was asked for already, and no leader has taken it up yet")
            # Whoever left the choice open is served by this one too.
        if _place(etcd, layout, lying, algorithm, actor, clock()):
            return None


def follow(snapshot: KeySnapshot, layout: Layout, algorithm: str, kid: str | None) -> tuple[str | None, bool]:
    """What has become of a request, by what etcd snapshot some time after it was made: the kid, and whether it signs.
    Pure.

    kid is what was known of it before: call it again with what it returned.
    """
    keys = {key.kid: key for key in snapshot.state.keys}
    if kid in keys:
        return kid, keys[kid].state is not State.PREPARED
    # It is not known yet; or it was revoked before it signed, and the rotation begins anew with another request.
    kid = _under_way(snapshot, algorithm)
    if kid is not None or snapshot.revisions.get(layout.rotation) or snapshot.state.signing not in keys:
        return kid, False
    # A request is dropped only together with a PREPARED key to answer it, and that one is through.
    return snapshot.state.signing, True


def _under_way(snapshot: KeySnapshot, algorithm: str) -> str | None:
    for key in snapshot.state.keys:
        if key.state is State.PREPARED and algorithm in ("", key.algorithm):
            return key.kid
    return None


def _place(etcd: EtcdClient, layout: Layout, lying: KeyValue | None, algorithm: str, actor: str, now: float) -> bool:
    request = auth_pb2.RotationRequest(format=FORMAT, algorithm=algorithm, actor=actor, requested_at=stamp(now))
    unchanged = Unchanged(layout.rotation, 0 if lying is None else lying.mod_revision)
    revision = etcd.commit([unchanged], [Put(layout.rotation, request.SerializeToString())])
    if revision is not None:
        audit("key.rotate", algorithm=algorithm, actor=actor, revision=revision)
    return revision is not None
