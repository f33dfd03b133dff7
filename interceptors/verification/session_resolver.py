"""Resolving opaque sessions at the auth service."""

from __future__ import annotations

from typing import Final, Protocol

import grpc

from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.errors import Reason, Refusal

__all__ = ["GrpcSessionResolver", "SessionResolver"]

_TIMEOUT_SECONDS: Final = 5.0


class SessionResolver(Protocol):
    """Resolves the session that an opaque token stands for."""

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """Returns the session, or the reason of its refusal. Raises Refusal MESH_STALE if no answer can be had."""
        ...


class GrpcSessionResolver:
    """Calls the auth service over a channel whose credentials must hold the scope `credmesh.introspect`."""

    def __init__(self, channel: grpc.Channel, *, timeout: float = _TIMEOUT_SECONDS) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._timeout = timeout

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """Calls AuthService.ResolveSession; see SessionResolver."""
        try:
            return self._stub.ResolveSession(request, timeout=self._timeout)
        except grpc.RpcError as error:
            # The failure is this node's or the auth service's, and no verdict on the session, so the caller may retry.
            code = error.code() if isinstance(error, grpc.Call) else None
            raise Refusal(Reason.MESH_STALE, f"the auth service could not be asked for the session: {code}") from error
