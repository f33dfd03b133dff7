"""credmesh.admin.v1.SessionService: lists and ends live sessions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import grpc

from authsvc.api import validate
from authsvc.api.paging import invalid_token, page_size
from authsvc.api.receipt_waiting import receipt_wait_seconds
from authsvc.audit import audit
from authsvc.errors import NotFound
from authsvc.revocation.receipts import Receipts
from authsvc.sessions.directory import SessionDirectory
from authsvc.sessions.sessions import Sessions
from credmesh.admin.v1 import sessions_pb2, sessions_pb2_grpc
from credmesh.store.v1 import auth_pb2
from interceptors.caller import current_caller
from interceptors.etcd.client import Delete, Put

__all__ = ["SessionServicer"]

_PAGE_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_KINDS: Final = {
    auth_pb2.SessionRecord.KIND_TOKENS: sessions_pb2.SESSION_KIND_TOKENS,
    auth_pb2.SessionRecord.KIND_OPAQUE: sessions_pb2.SESSION_KIND_OPAQUE,
}


class SessionServicer(sessions_pb2_grpc.SessionServiceServicer):
    """Serves SessionService. authsvc.api.status_mapping maps the exceptions to statuses."""

    def __init__(self, *, directory: SessionDirectory, sessions: Sessions, receipts: Receipts) -> None:
        self._directory = directory
        self._sessions = sessions
        self._receipts = receipts

    def ListSessions(
        self, request: sessions_pb2.ListSessionsRequest, context: grpc.ServicerContext
    ) -> sessions_pb2.ListSessionsResponse:
        """Returns a page of the live sessions, as this replica's watch has them."""
        if request.subject:
            validate.name("subject", request.subject)
        size = page_size(request.page_size)
        # The token is the id of the last session on the page before. So a page begins right after that session, also if
        # sessions came and went in between.
        if request.page_token and _PAGE_TOKEN.fullmatch(request.page_token) is None:
            raise invalid_token()
        records, more, total = self._directory.page(subject=request.subject, after=request.page_token, size=size)
        return sessions_pb2.ListSessionsResponse(
            sessions=[_session(record) for record in records],
            next_page_token=records[-1].session_id if more else "",
            total_size=total,
        )

    def KickSession(
        self, request: sessions_pb2.KickSessionRequest, context: grpc.ServicerContext
    ) -> sessions_pb2.KickSessionResponse:
        """Ends a session. With `wait` it returns a receipt."""
        session_id = validate.name("session_id", request.session_id)
        reason = validate.reason("reason", request.reason)
        wait_seconds = receipt_wait_seconds(request, context)
        actor = current_caller().subject

        def commit(extra_operations: Sequence[Put | Delete] = ()) -> int:
            revision = self._sessions.end(session_id, actor=actor, reason=reason, extra_operations=extra_operations)
            if revision is None:
                raise NotFound(f"there is no live session {session_id!r}; it may have ended already")
            audit("session.kick", actor=actor, session_id=session_id, reason=reason, revision=revision)
            return revision

        if wait_seconds is None:
            return sessions_pb2.KickSessionResponse(revision=commit())
        receipt = self._receipts.confirm(commit, timeout=wait_seconds, on_call_end=context.add_callback)
        return sessions_pb2.KickSessionResponse(revision=receipt.revision, receipt=receipt)


def _session(record: auth_pb2.SessionRecord) -> sessions_pb2.Session:
    return sessions_pb2.Session(
        session_id=record.session_id,
        subject=record.subject,
        client_id=record.client_id,
        kind=_KINDS.get(record.kind, sessions_pb2.SESSION_KIND_UNSPECIFIED),
        scopes=record.scopes,
        audiences=record.audiences,
        created_at=record.created_at,
        last_seen_at=record.last_seen_at,
        idle_expires_at=record.idle_expires_at,
        expires_at=record.expires_at,
    )
