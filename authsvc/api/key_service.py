"""credmesh.admin.v1.KeyService: the signing keys, and how to replace them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Final

import grpc

from authsvc.api import validate
from authsvc.api.concurrency import ConcurrencyLimit
from authsvc.api.paging import page
from authsvc.api.receipt_waiting import patience_of
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.errors import ApiError, FailedPrecondition, InvalidField, NotFound
from authsvc.keys import algorithms
from authsvc.keys.algorithms import UnknownAlgorithm
from authsvc.keys.revoker import KeyRevoker
from authsvc.keys.ring import KeyMissing
from authsvc.keys.rotation_request import RotationBusy, follow, request_rotation
from authsvc.keys.snapshot import KeySnapshot, read_key_snapshot
from authsvc.keys.watch import follow_keys
from authsvc.revocation.receipts import Receipts
from authsvc.store.records import RecordError
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc
from credmesh.store.v1 import mesh_pb2
from interceptors.caller import current_caller
from interceptors.etcd.client import Delete, EtcdClient, Put, Snapshot
from interceptors.etcd.mirror import Event, Mirror
from interceptors.keyspace import Layout

__all__ = ["KeyServicer"]

_TAKEN_UP: Final = 1.0
"""Seconds in which a leader that is well has taken a request up."""

_LONGEST: Final = 300.0
"""Seconds that a call without a deadline waits for a rotation."""

_LOOK_AGAIN: Final = 5.0

_WATCHES: Final = 4
_WAITS: Final = 4
"""So many may watch, and so many wait for a rotation: beside the receipts' threads, and those of the passwords that may
wait, some are left for who refreshes or asks for health. They are apart: whoever may only read holds no writer up."""

_STATES: Final = {
    mesh_pb2.VerificationKey.STATE_PREPARED: keys_pb2.KEY_STATE_PREPARED,
    mesh_pb2.VerificationKey.STATE_ACTIVE: keys_pb2.KEY_STATE_ACTIVE,
    mesh_pb2.VerificationKey.STATE_RETIRING: keys_pb2.KEY_STATE_RETIRING,
}


class _NotYet(ApiError):
    """The key does not sign yet, and the caller's time is up."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class KeyServicer(keys_pb2_grpc.KeyServiceServicer):
    """Serves KeyService on any replica. Errors are raised; authsvc.api.errors answers them.

    watches, waits: so many callers may watch the keys at once, and so many wait for a rotation. Each holds a thread.
    """

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        ack_tracker: AckTracker,
        receipts: Receipts,
        revoker: KeyRevoker,
        watches: int = _WATCHES,
        waits: int = _WAITS,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._ack_tracker = ack_tracker
        self._receipts = receipts
        self._watches = ConcurrencyLimit(
            watches, "as many watch the keys at this replica as may; ask ListKeys now and then, or try again later"
        )
        self._waits = ConcurrencyLimit(
            waits,
            "as many wait for a rotation at this replica as may, and nothing was asked for; ask without wait: ListKeys "
            "shows when the new key signs",
        )
        self._revoker = revoker

    def ListKeys(self, request: keys_pb2.ListKeysRequest, context: grpc.ServicerContext) -> keys_pb2.ListKeysResponse:
        """A page of the keys, oldest first."""
        snapshot = read_key_snapshot(self._etcd, self._layout)
        found, token = page(snapshot.records.values(), name=_age, size=request.page_size, token=request.page_token)
        return keys_pb2.ListKeysResponse(keys=[_message(record, snapshot) for record in found], next_page_token=token)

    def RotateKeys(
        self, request: keys_pb2.RotateKeysRequest, context: grpc.ServicerContext
    ) -> keys_pb2.RotateKeysResponse:
        """Asks for a rotation. With `wait` it answers when the new key signs, or says what that waits for."""
        try:
            algorithm = algorithms.algorithm_of(request.algorithm)
        except UnknownAlgorithm as error:
            raise InvalidField("algorithm", f"is not known here: {error}") from None
        place = self._waits.taken() if request.wait else nullcontext()
        with place, _Changes(self._etcd, self._layout, context) as changes:
            try:
                return self._rotate(algorithm, request.wait, _patience(request.wait, context), changes)
            except RecordError as error:
                raise FailedPrecondition(
                    f"there is a rotation request that this replica cannot read: {error}"
                ) from None

    def RevokeKey(
        self, request: keys_pb2.RevokeKeyRequest, context: grpc.ServicerContext
    ) -> keys_pb2.RevokeKeyResponse:
        """Removes a key at once. With `wait` it answers with a receipt."""
        kid = validate.name("kid", request.kid)
        reason = validate.reason("reason", request.reason)
        patience = patience_of(request, context)
        actor = current_caller().subject

        def commit(extra: Sequence[Put | Delete] = ()) -> int:
            return self._revoker.revoke(kid, actor, reason, extra_operations=extra)

        try:
            if patience is None:
                return keys_pb2.RevokeKeyResponse(revision=commit())
            receipt = self._receipts.confirm(commit, patience=patience, context=context)
        except KeyMissing as error:
            raise NotFound(
                f"{error}; ListKeys shows those that there are. No token of a key that is gone is accepted; streams "
                "that follow their session may outlive it, and are ended by revoking everyone, or whose they are"
            ) from None
        return keys_pb2.RevokeKeyResponse(revision=receipt.revision, receipt=receipt)

    def WatchKeys(
        self, request: keys_pb2.WatchKeysRequest, context: grpc.ServicerContext
    ) -> Iterator[keys_pb2.WatchKeysResponse]:
        """The keys, again and again as they change."""
        with self._watches.taken():
            yield from follow_keys(self._etcd, self._layout, self._ack_tracker, context, _messages)

    def _rotate(self, algorithm: str, wait: bool, patience: float, changes: _Changes) -> keys_pb2.RotateKeysResponse:
        deadline = time.monotonic() + patience
        asked, kid = False, None
        snapshot: KeySnapshot | None = None
        busy: RotationBusy | None = None
        while True:
            try:
                if not asked:
                    kid = request_rotation(self._etcd, self._layout, algorithm, current_caller().subject)
                    asked = True
                snapshot = read_key_snapshot(self._etcd, self._layout)
                kid, signs = follow(snapshot, self._layout, algorithm, kid)
                if signs or (kid is not None and not wait):
                    return _response(kid, snapshot)
            except RotationBusy as error:
                busy = error
            if not changes.next(deadline):
                break
        if not asked and busy is not None:
            raise FailedPrecondition(f"{busy}; retry")
        if wait:
            raise _NotYet(_why_not_yet(kid, snapshot))
        return _response(kid, snapshot)


class _Changes:
    """Waits for changes of the keys, or for the end of the call."""

    def __init__(self, etcd: EtcdClient, layout: Layout, context: grpc.ServicerContext) -> None:
        self._bell = threading.Event()
        self._context = context
        self._mirror = Mirror(
            etcd.settings, layout.keys, on_snapshot=self._on_snapshot, on_events=self._on_events, name="rotation-wait"
        )

    def __enter__(self) -> _Changes:
        self._context.add_callback(self._bell.set)
        self._mirror.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._mirror.stop()

    def next(self, deadline: float) -> bool:
        """Waits until there may be something new; False if the time is up, or nobody waits for the answer any more."""
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not self._context.is_active():
            return False
        self._bell.wait(min(remaining, _LOOK_AGAIN))
        self._bell.clear()
        return True

    def _on_snapshot(self, _snapshot: Snapshot) -> None:
        self._bell.set()

    def _on_events(self, _events: Sequence[Event], _revision: int) -> None:
        self._bell.set()


def _patience(wait: bool, context: grpc.ServicerContext) -> float:
    """Seconds to wait. With a deadline a little less than what is left, so that the caller still learns why."""
    remaining = context.time_remaining()
    patience = _LONGEST if wait else _TAKEN_UP
    return patience if remaining is None else min(patience, remaining - min(0.2, remaining / 10))


def _response(kid: str | None, snapshot: KeySnapshot | None) -> keys_pb2.RotateKeysResponse:
    record = None if kid is None or snapshot is None else snapshot.records.get(kid)
    if snapshot is None or record is None:
        return keys_pb2.RotateKeysResponse()
    return keys_pb2.RotateKeysResponse(key=_message(record, snapshot))


def _why_not_yet(kid: str | None, snapshot: KeySnapshot | None) -> str:
    if kid is None or snapshot is None:
        return "no leader has taken the request up yet; it is kept, and the rotation goes on as soon as one does"
    nodes = ", ".join(sorted(snapshot.state.waiting_for)) or "the leader"
    return f"key {kid} does not sign yet, it waits for {nodes}; the rotation goes on"


def _age(record: mesh_pb2.VerificationKey) -> str:
    return f"{record.prepared_at.ToNanoseconds():020d} {record.kid}"


def _messages(snapshot: KeySnapshot) -> list[keys_pb2.Key]:
    """All keys, oldest first."""
    return [_message(record, snapshot) for record in sorted(snapshot.records.values(), key=_age)]


def _message(record: mesh_pb2.VerificationKey, snapshot: KeySnapshot) -> keys_pb2.Key:
    prepared = record.state == mesh_pb2.VerificationKey.STATE_PREPARED
    return keys_pb2.Key(
        kid=record.kid,
        state=_STATES[record.state],
        algorithm=algorithms.to_message(record.algorithm),
        prepared_at=record.prepared_at,
        activated_at=record.activated_at if record.HasField("activated_at") else None,
        retired_at=record.retired_at if record.HasField("retired_at") else None,
        removed_at=record.remove_at if record.HasField("remove_at") else None,
        waiting_for=sorted(snapshot.state.waiting_for) if prepared else (),
    )
