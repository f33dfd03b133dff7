"""Introspection (RFC 7662): whether a credential would be accepted now, and what it says."""

from __future__ import annotations

from typing import Final

import grpc

from authsvc.sessions.sessions import Sessions, identity
from authsvc.store.timestamps import seconds, stamp
from credmesh.auth.v1 import auth_pb2
from interceptors.caller import Caller
from interceptors.errors import Refusal
from interceptors.node.mesh_node import MeshNode
from interceptors.tokens.access_token import token_kid
from interceptors.tokens.opaque_token import OpaqueToken

__all__ = ["Introspection", "identity_of"]

_INACTIVE: Final = auth_pb2.IntrospectResponse()


class Introspection:
    """Looks at credentials of every kind, and changes nothing: a refresh token is not used up by it."""

    def __init__(self, *, node: MeshNode, sessions: Sessions) -> None:
        self._node = node
        self._sessions = sessions

    def introspect(self, token: str) -> auth_pb2.IntrospectResponse:
        """What a credential is now. One that is not good, for whatever reason, is inactive and says nothing more.

        Refusal MESH_NOT_READY and EtcdUnavailable if that cannot be told now.
        """
        try:
            opaque = OpaqueToken.parse(token)
        except ValueError:
            opaque = None
        try:
            return self._token(token) if opaque is None else self._opaque(opaque)
        except Refusal as refusal:
            if refusal.status is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return _INACTIVE

    def _token(self, token: str) -> auth_pb2.IntrospectResponse:
        caller = self._node.verify(token)
        # The node's knowledge may be some milliseconds old. Whoever asks here wants to know it for certain.
        self._sessions.refuse_if_revoked(caller, token_kid(token))
        return auth_pb2.IntrospectResponse(
            active=True, identity=identity_of(caller), expires_at=stamp(caller.expires_at)
        )

    def _opaque(self, token: OpaqueToken) -> auth_pb2.IntrospectResponse:
        record, granted = self._sessions.find(token)
        expires_at = min(seconds(record.idle_expires_at), seconds(record.expires_at))
        return auth_pb2.IntrospectResponse(
            active=True, identity=identity(record, granted), expires_at=stamp(expires_at)
        )


def identity_of(caller: Caller) -> auth_pb2.Identity:
    """Whose a verified credential is."""
    return auth_pb2.Identity(
        subject=caller.subject,
        client_id=caller.client_id,
        session_id=caller.session_id or "",
        scopes=sorted(caller.scopes),
        audiences=sorted(caller.audiences),
        epoch=caller.epoch,
    )
