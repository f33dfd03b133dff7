"""credmesh.admin.v1.KeyService: lists, rotates, watches and revokes the signing keys."""

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
from authsvc.api.receipt_waiting import receipt_wait_seconds
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.errors import ApiError, FailedPrecondition, InvalidField, NotFound
from authsvc.keys.algorithms import UnknownAlgorithm
from authsvc.keys.revoker import KeyRevoker
from authsvc.keys.rotation_request import RotationBusy, find_requested_key, request_rotation
from authsvc.keys.signer_cache import KeyMissing
from authsvc.keys.snapshot import KeySnapshot, read_key_snapshot
from authsvc.keys.watch import watch_keys
from authsvc.revocation.receipts import Receipts
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc
from credmesh.store.v1 import mesh_pb2
from interceptors.caller import current_caller
from interceptors.etcd.client import Delete, EtcdClient, Put
from interceptors.etcd.mirror import change_notifier
from interceptors.keyspace import Layout
from interceptors.stored_records import RecordError

__all__ = ["KeyServicer", "algorithm_name", "algorithm_number"]

_LEADER_ANSWER_SECONDS: Final = 1.0
"""The time in which a healthy leader starts a requested rotation."""

_MAX_ROTATION_WAIT_SECONDS: Final = 300.0
"""For a call without a deadline."""

_MAX_READ_INTERVAL_SECONDS: Final = 5.0
"""The keys are read this often without an event, in case that an event gets lost."""

_MAX_ANSWER_SECONDS: Final = 0.2
_ANSWER_FRACTION: Final = 1 / 10
"""What is left of a call's deadline for sending the answer."""

# Each of these calls holds a thread. Receipts and waiting passwords hold threads too, and some must be left for
# refreshes and health checks. The limits are separate, so that callers who may only read cannot delay writers.
_MAX_WATCHES: Final = 4
_MAX_ROTATION_WAITS: Final = 4

_ALGORITHM_NUMBERS: Final = {
    "EdDSA": keys_pb2.KEY_ALGORITHM_EDDSA,
    "ES256": keys_pb2.KEY_ALGORITHM_ES256,
    "RS256": keys_pb2.KEY_ALGORITHM_RS256,
}
_ALGORITHM_NAMES: Final = {number: name for name, number in _ALGORITHM_NUMBERS.items()}
_STATES: Final = {
    mesh_pb2.VerificationKey.STATE_PREPARED: keys_pb2.KEY_STATE_PREPARED,
    mesh_pb2.VerificationKey.STATE_ACTIVE: keys_pb2.KEY_STATE_ACTIVE,
    mesh_pb2.VerificationKey.STATE_RETIRING: keys_pb2.KEY_STATE_RETIRING,
}


class _NotSigningYet(ApiError):
    """The new key does not sign yet, and the wait is over."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class KeyServicer(keys_pb2_grpc.KeyServiceServicer):
    """Serves KeyService on any replica. authsvc.api.status_mapping maps the exceptions to statuses.

    max_watches         how many calls may watch the keys at once
    max_rotation_waits  how many calls may wait for a rotation at once
    """

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        ack_tracker: AckTracker,
        receipts: Receipts,
        revoker: KeyRevoker,
        max_watches: int = _MAX_WATCHES,
        max_rotation_waits: int = _MAX_ROTATION_WAITS,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._ack_tracker = ack_tracker
        self._receipts = receipts
        self._watch_limit = ConcurrencyLimit(
            max_watches,
            "too many calls watch the keys of this replica already; poll ListKeys instead, or try again later",
        )
        self._rotation_wait_limit = ConcurrencyLimit(
            max_rotation_waits,
            "too many calls wait for a rotation at this replica already, and no rotation was requested; request one "
            "without wait: ListKeys shows when the new key signs",
        )
        self._revoker = revoker

    def ListKeys(self, request: keys_pb2.ListKeysRequest, context: grpc.ServicerContext) -> keys_pb2.ListKeysResponse:
        """Returns a page of the keys, oldest first."""
        snapshot = read_key_snapshot(self._etcd, self._layout)
        records, token = page(
            snapshot.records.values(), name=_age_order, size=request.page_size, token=request.page_token
        )
        return keys_pb2.ListKeysResponse(keys=[_message(record, snapshot) for record in records], next_page_token=token)

    def RotateKeys(
        self, request: keys_pb2.RotateKeysRequest, context: grpc.ServicerContext
    ) -> keys_pb2.RotateKeysResponse:
        """Requests a rotation. With `wait` it returns when the new key signs, or fails with what that waits for."""
        try:
            algorithm = algorithm_name(request.algorithm)
        except UnknownAlgorithm as error:
            raise InvalidField("algorithm", f"is not known here: {error}") from None
        slot = self._rotation_wait_limit.slot() if request.wait else nullcontext()
        with slot, _KeyChanges(self._etcd, self._layout, context) as changes:
            try:
                return self._rotate(algorithm, request.wait, _wait_seconds(request.wait, context), changes)
            except RecordError as error:
                raise FailedPrecondition(
                    f"there is a rotation request that this replica cannot read: {error}"
                ) from None

    def RevokeKey(
        self, request: keys_pb2.RevokeKeyRequest, context: grpc.ServicerContext
    ) -> keys_pb2.RevokeKeyResponse:
        """Removes a key at once. With `wait` it returns a receipt."""
        kid = validate.name("kid", request.kid)
        reason = validate.reason("reason", request.reason)
        wait_seconds = receipt_wait_seconds(request, context)
        actor = current_caller().subject

        def commit(extra_operations: Sequence[Put | Delete] = ()) -> int:
            return self._revoker.revoke(kid, actor, reason, extra_operations=extra_operations)

        try:
            if wait_seconds is None:
                return keys_pb2.RevokeKeyResponse(revision=commit())
            receipt = self._receipts.confirm(commit, timeout=wait_seconds, on_call_end=context.add_callback)
        except KeyMissing as error:
            raise NotFound(
                f"{error}; ListKeys shows the existing keys. No token of a removed key is accepted. Open streams may "
                "outlive a key that retired; to end them, revoke everyone, or the subjects that they belong to"
            ) from None
        return keys_pb2.RevokeKeyResponse(revision=receipt.revision, receipt=receipt)

    def WatchKeys(
        self, request: keys_pb2.WatchKeysRequest, context: grpc.ServicerContext
    ) -> Iterator[keys_pb2.WatchKeysResponse]:
        """Yields the keys, and again whenever they change."""
        with self._watch_limit.slot():
            yield from watch_keys(self._etcd, self._layout, self._ack_tracker, context, _messages)

    def _rotate(
        self, algorithm: str, wait: bool, wait_seconds: float, changes: _KeyChanges
    ) -> keys_pb2.RotateKeysResponse:
        deadline = time.monotonic() + wait_seconds
        requested, kid = False, None
        snapshot: KeySnapshot | None = None
        busy: RotationBusy | None = None
        while True:
            try:
                if not requested:
                    kid = request_rotation(self._etcd, self._layout, algorithm, current_caller().subject)
                    requested = True
                snapshot = read_key_snapshot(self._etcd, self._layout)
                kid, signs = find_requested_key(snapshot, self._layout, algorithm, kid)
                if signs or (kid is not None and not wait):
                    return _response(kid, snapshot)
            except RotationBusy as error:
                busy = error
            if not changes.wait_for_next(deadline):
                break
        if not requested and busy is not None:
            raise FailedPrecondition(f"{busy}; retry")
        if wait:
            raise _NotSigningYet(_why_not_signing(kid, snapshot))
        return _response(kid, snapshot)


class _KeyChanges:
    """Waits for changes of the keys, or for the end of the call."""

    def __init__(self, etcd: EtcdClient, layout: Layout, context: grpc.ServicerContext) -> None:
        self._changed = threading.Event()
        self._context = context
        self._mirror = change_notifier(etcd.settings, layout.keys, self._changed.set, name="rotation-wait")

    def __enter__(self) -> _KeyChanges:
        self._context.add_callback(self._changed.set)
        self._mirror.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._mirror.stop()

    def wait_for_next(self, deadline: float) -> bool:
        """Waits until the keys may have changed. Returns False if the deadline has passed or the call has ended."""
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not self._context.is_active():
            return False
        self._changed.wait(min(remaining, _MAX_READ_INTERVAL_SECONDS))
        self._changed.clear()
        return True


def algorithm_number(name: str) -> keys_pb2.KeyAlgorithm.ValueType:
    """The algorithm's number in the API; KEY_ALGORITHM_UNSPECIFIED if the API has none for it."""
    return _ALGORITHM_NUMBERS.get(name, keys_pb2.KEY_ALGORITHM_UNSPECIFIED)


def algorithm_name(number: keys_pb2.KeyAlgorithm.ValueType) -> str:
    """The algorithm's name; "" for KEY_ALGORITHM_UNSPECIFIED. UnknownAlgorithm for a number without a name."""
    if number == keys_pb2.KEY_ALGORITHM_UNSPECIFIED:
        return ""
    if number not in _ALGORITHM_NAMES:
        raise UnknownAlgorithm(number)
    return _ALGORITHM_NAMES[number]


def _wait_seconds(wait: bool, context: grpc.ServicerContext) -> float:
    """How long to wait. It ends shortly before the call's deadline, so that the caller still gets an explanation."""
    remaining = context.time_remaining()
    seconds = _MAX_ROTATION_WAIT_SECONDS if wait else _LEADER_ANSWER_SECONDS
    if remaining is None:
        return seconds
    return min(seconds, remaining - min(_MAX_ANSWER_SECONDS, remaining * _ANSWER_FRACTION))


def _response(kid: str | None, snapshot: KeySnapshot | None) -> keys_pb2.RotateKeysResponse:
    record = None if kid is None or snapshot is None else snapshot.records.get(kid)
    if snapshot is None or record is None:
        return keys_pb2.RotateKeysResponse()
    return keys_pb2.RotateKeysResponse(key=_message(record, snapshot))


def _why_not_signing(kid: str | None, snapshot: KeySnapshot | None) -> str:
    if kid is None or snapshot is None:
        return "no leader has started the rotation yet; the request is kept, and the next leader starts it"
    nodes = ", ".join(sorted(snapshot.state.waiting_for)) or "the leader"
    return f"key {kid} does not sign yet, because it waits for {nodes}; the rotation continues"


def _age_order(record: mesh_pb2.VerificationKey) -> str:
    """A text by which keys are sorted, oldest first."""
    return f"{record.prepared_at.ToNanoseconds():020d} {record.kid}"


def _messages(snapshot: KeySnapshot) -> list[keys_pb2.Key]:
    """All keys, oldest first."""
    return [_message(record, snapshot) for record in sorted(snapshot.records.values(), key=_age_order)]


def _message(record: mesh_pb2.VerificationKey, snapshot: KeySnapshot) -> keys_pb2.Key:
    prepared = record.state == mesh_pb2.VerificationKey.STATE_PREPARED
    return keys_pb2.Key(
        kid=record.kid,
        state=_STATES[record.state],
        algorithm=algorithm_number(record.algorithm),
        prepared_at=record.prepared_at,
        activated_at=record.activated_at if record.HasField("activated_at") else None,
        retired_at=record.retired_at if record.HasField("retired_at") else None,
        removed_at=record.remove_at if record.HasField("remove_at") else None,
        waiting_for=sorted(snapshot.state.waiting_for) if prepared else (),
    )
