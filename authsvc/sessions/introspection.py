"""Introspection (RFC 7662): whether a credential would be accepted now, and what it says."""

from __future__ import annotations

from typing import Final

import grpc

from authsvc.sessions.sessions import Sessions, session_identity
from authsvc.store.timestamps import seconds, stamp
from credmesh.auth.v1 import auth_pb2
from interceptors.caller import Caller
from interceptors.errors import Refusal
from interceptors.node.mesh_node import MeshNode
from interceptors.tokens.access_token import token_kid
from interceptors.tokens.opaque_token import OpaqueToken

__all__ = ["Introspection", "caller_identity"]

_INACTIVE: Final = auth_pb2.IntrospectResponse()


class Introspection:
    """Introspects credentials of every kind without changing anything: a refresh token is not used up."""

    def __init__(self, *, node: MeshNode, sessions: Sessions) -> None:
        self._node = node
        self._sessions = sessions

    def introspect(self, token: str) -> auth_pb2.IntrospectResponse:
        """Returns what a credential is now. A credential that would not be accepted is inactive, without a reason.

        Refusal MESH_NOT_READY and EtcdUnavailable if that cannot be determined now.
        """
        try:
            opaque = OpaqueToken.parse(token)
        except ValueError:
            opaque = None
        try:
            return self._introspect_access_token(token) if opaque is None else self._introspect_opaque(opaque)
        except Refusal as refusal:
            if refusal.status is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return _INACTIVE

    def _introspect_access_token(self, token: str) -> auth_pb2.IntrospectResponse:
        caller = self._node.verify(token)
        # The node's trust bundle may be some milliseconds old. Introspection has to be exact, so it asks etcd too.
        self._sessions.refuse_if_revoked(caller, token_kid(token))
        return auth_pb2.IntrospectResponse(
            active=True, identity=caller_identity(caller), expires_at=stamp(caller.expires_at)
        )

    def _introspect_opaque(self, token: OpaqueToken) -> auth_pb2.IntrospectResponse:
        record, granted = self._sessions.accepted_session(token)
        expires_at = min(seconds(record.idle_expires_at), seconds(record.expires_at))
        return auth_pb2.IntrospectResponse(
            active=True, identity=session_identity(record, granted), expires_at=stamp(expires_at)
        )


def caller_identity(caller: Caller) -> auth_pb2.Identity:
    """The identity that a verified credential stands for."""
    return auth_pb2.Identity(
        subject=caller.subject,
        client_id=caller.client_id,
        session_id=caller.session_id or "",
        scopes=sorted(caller.scopes),
        audiences=sorted(caller.audiences),
        epoch=caller.epoch,
    )
