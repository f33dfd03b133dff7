"""credmesh.admin.v1.RevocationService: revokes everything that was issued to a scope."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc

from authsvc.api import validate
from authsvc.api.receipt_waiting import receipt_wait_seconds
from authsvc.audit import audit
from authsvc.errors import InvalidField
from authsvc.revocation.receipts import Receipts
from authsvc.revocation.revoker import Revoker
from authsvc.store.timestamps import stamp
from credmesh.admin.v1 import revocation_pb2, revocation_pb2_grpc
from interceptors.caller import current_caller
from interceptors.etcd.client import Delete, Put
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope

__all__ = ["RevocationServicer"]


class RevocationServicer(revocation_pb2_grpc.RevocationServiceServicer):
    """Serves RevocationService. authsvc.api.status_mapping maps the exceptions to statuses."""

    def __init__(self, *, revocation: Revoker, receipts: Receipts) -> None:
        self._revocation = revocation
        self._receipts = receipts

    def Revoke(
        self, request: revocation_pb2.RevokeRequest, context: grpc.ServicerContext
    ) -> revocation_pb2.RevokeResponse:
        """Revokes a scope. With `wait` it returns a receipt.

        The subject, session, client or audience need not exist: credentials of a deleted one may still be around.
        """
        scope = _scope(request)
        reason = validate.reason("reason", request.reason)
        wait_seconds = receipt_wait_seconds(request, context)
        actor = current_caller().subject

        def commit(extra_operations: Sequence[Put | Delete] = ()) -> int:
            revision = self._revocation.revoke(scope, actor=actor, reason=reason, extra_operations=extra_operations)
            assert revision is not None, "a revocation without further conditions always succeeds"  # noqa: S101
            audit("revoke", actor=actor, scope=scope, reason=reason, revision=revision)
            return revision

        if wait_seconds is None:
            return revocation_pb2.RevokeResponse(revision=commit(), committed_at=stamp(time.time()))
        receipt = self._receipts.confirm(commit, timeout=wait_seconds, on_call_end=context.add_callback)
        return revocation_pb2.RevokeResponse(
            revision=receipt.revision, committed_at=receipt.committed_at, receipt=receipt
        )


def _scope(request: revocation_pb2.RevokeRequest) -> str:
    """The scope that a request names. Raises InvalidField if it names none."""
    match request.WhichOneof("scope"):
        case "everyone":
            if not request.everyone:
                raise InvalidField("everyone", "must be true; to revoke less, set another scope")
            return EVERYONE
        case "subject":
            return subject_scope(validate.name("subject", request.subject))
        case "session_id":
            return session_scope(validate.name("session_id", request.session_id))
        case "client_id":
            return client_scope(validate.name("client_id", request.client_id))
        case "audience":
            return audience_scope(validate.name("audience", request.audience))
        case _:
            raise InvalidField("scope", "is not set; set everyone, subject, session_id, client_id or audience")
