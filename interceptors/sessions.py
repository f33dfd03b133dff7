"""Resolving opaque sessions: asking the auth service what stands behind one."""

from __future__ import annotations

from typing import Final, Protocol

import grpc

from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.errors import Reason, Refusal, reason_of

__all__ = ["GrpcSessionResolver", "SessionResolver"]

_TIMEOUT: Final = 5.0


class SessionResolver(Protocol):
    """Asks the auth service for the session behind an opaque token."""

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """The session. Refusal if it is unknown, ended or timed out, and MESH_STALE if nobody can be asked now."""
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
            trailing = error.trailing_metadata() if isinstance(error, grpc.Call) else None
            code = error.code() if isinstance(error, grpc.Call) else None
            reason = reason_of(trailing)
            # The service answers for the session with UNAUTHENTICATED. Anything else is about this node's own
            # credential, or about the service being away: no verdict on the session, so the call is to be retried.
            if code is grpc.StatusCode.UNAUTHENTICATED and reason is not None and _is_about_session(trailing):
                raise Refusal(reason, "the auth service refused the session") from None
            raise Refusal(Reason.MESH_STALE, f"the auth service did not resolve the session: {code}") from error


def _is_about_session(trailing: object) -> bool:
    """ResolveSession marks its verdict on the session; a refusal of this node's own credential has no such mark."""
    return any(key == "credmesh-session-verdict" for key, _ in trailing or ())  # type: ignore[attr-defined]
