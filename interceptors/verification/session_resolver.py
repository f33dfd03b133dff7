"""Resolving opaque sessions: asking the auth service what stands behind one."""

from __future__ import annotations

from typing import Final, Protocol

import grpc

from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.errors import Reason, Refusal

__all__ = ["GrpcSessionResolver", "SessionResolver"]

_TIMEOUT: Final = 5.0


class SessionResolver(Protocol):
    """Asks the auth service for the session behind an opaque token."""

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """The session, or why there is none (`refusal`). Refusal MESH_STALE if nobody can be asked now."""
        ...


class GrpcSessionResolver:
    """Asks over a channel to the auth service, whose credentials must hold the scope `credmesh.introspect`."""

    def __init__(self, channel: grpc.Channel, *, timeout: float = _TIMEOUT) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._timeout = timeout

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """Calls AuthService.ResolveSession; see SessionResolver."""
        try:
            return self._stub.ResolveSession(request, timeout=self._timeout)
        except grpc.RpcError as error:
            # Whatever went wrong is about this node or the service, and no verdict on the session: retry.
            code = error.code() if isinstance(error, grpc.Call) else None
            raise Refusal(Reason.MESH_STALE, f"the auth service could not be asked for the session: {code}") from error
