"""credmesh.admin.v1.RevocationService: what was issued to a scope is revoked."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc

from authsvc.api import validate
from authsvc.api.receipt_waiting import patience_of
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
    """Serves RevocationService. Errors are raised; authsvc.api.errors answers them."""

    def __init__(self, *, revocation: Revoker, receipts: Receipts) -> None:
        self._revocation = revocation
        self._receipts = receipts

    def Revoke(
        self, request: revocation_pb2.RevokeRequest, context: grpc.ServicerContext
    ) -> revocation_pb2.RevokeResponse:
        """Revokes. Whether the scope's subject, session, client or audience exists is not asked: in doubt it does.

        With `wait` it answers with a receipt.
        """
        scope = _scope(request)
        reason = validate.reason("reason", request.reason)
        patience = patience_of(request, context)
        actor = current_caller().subject

        def commit(extra: Sequence[Put | Delete] = ()) -> int:
            revision = self._revocation.revoke(scope, actor=actor, reason=reason, extra_operations=extra)
            assert revision is not None, "a commit without conditions happens"  # noqa: S101
            audit("revoke", actor=actor, scope=scope, reason=reason, revision=revision)
            return revision

        if patience is None:
            return revocation_pb2.RevokeResponse(revision=commit(), committed_at=stamp(time.time()))
        receipt = self._receipts.confirm(commit, patience=patience, context=context)
        return revocation_pb2.RevokeResponse(
            revision=receipt.revision, committed_at=receipt.committed_at, receipt=receipt
        )


def _scope(request: revocation_pb2.RevokeRequest) -> str:
    """The scope that a request names. InvalidField if it names none."""
    match request.WhichOneof("scope"):
        case "everyone":
            if not request.everyone:
                raise InvalidField("everyone", "must be true; to revoke less than everything, set another scope")
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
