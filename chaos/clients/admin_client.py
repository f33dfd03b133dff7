"""The calls of operators: revocations with receipts, and rotations. Their records are described in `asking`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from chaos.clients.answers import Outcome, receipt_of
from chaos.clients.credentials import Credential, bearer
from chaos.clients.mesh_client import ISSUE_TIMEOUT_SECONDS, MeshClient
from credmesh.admin.v1 import (
    keys_pb2,
    keys_pb2_grpc,
    revocation_pb2,
    revocation_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.scopes import EVERYONE, session_scope

__all__ = ["AdminClient"]

Metadata = tuple[tuple[str, str | bytes], ...]

_FIELDS: Final = {"sub": "subject", "sid": "session_id", "client": "client_id", "aud": "audience"}


class AdminClient:
    """The calls of operators, over the channels of a `MeshClient`."""

    def __init__(self, mesh: MeshClient) -> None:
        self._asking = mesh
        channels = mesh.auth_channels
        self._auth: dict[str, Any] = {name: auth_pb2_grpc.AuthServiceStub(c) for name, c in channels.items()}
        self._keys: dict[str, Any] = {name: keys_pb2_grpc.KeyServiceStub(c) for name, c in channels.items()}
        self._sessions: dict[str, Any] = {name: sessions_pb2_grpc.SessionServiceStub(c) for name, c in channels.items()}
        self._revocation: dict[str, Any] = {
            name: revocation_pb2_grpc.RevocationServiceStub(c) for name, c in channels.items()
        }

    async def revoke(
        self, by: str, at: str, scope: str, admin: Credential, *, wait: bool, timeout_seconds: float
    ) -> Outcome:
        """Revokes a scope, named as in interceptors.scopes. The outcome's `details` hold revision and receipt."""
        request = revocation_pb2.RevokeRequest(reason="chaos", wait=wait)
        if scope == EVERYONE:
            request.everyone = True
        else:
            kind, _, name = scope.partition("/")
            setattr(request, _FIELDS[kind], name)
        revoke = self._revocation[at].Revoke
        return await self._revoking(
            "revoke", by, at, scope, wait, lambda m: revoke(request, timeout=timeout_seconds, metadata=m), admin
        )

    async def kick(
        self, by: str, at: str, session: str, admin: Credential, *, wait: bool, timeout_seconds: float
    ) -> Outcome:
        """Ends a session as an operator."""
        request = sessions_pb2.KickSessionRequest(session_id=session, reason="chaos", wait=wait)
        kick = self._sessions[at].KickSession
        scope = session_scope(session)
        return await self._revoking(
            "kick", by, at, scope, wait, lambda m: kick(request, timeout=timeout_seconds, metadata=m), admin
        )

    async def logout(self, by: str, at: str, held: Credential) -> Outcome:
        """Ends a session as its holder."""
        request = auth_pb2.LogoutRequest(token=held.refresh_token or held.token)
        logout = self._auth[at].Logout
        return await self._revoking(
            "logout",
            by,
            at,
            session_scope(held.session or ""),
            False,
            lambda _: logout(request, timeout=ISSUE_TIMEOUT_SECONDS),
            held,
        )

    async def rotate(self, by: str, at: str, algorithm: Any, admin: Credential, timeout_seconds: float) -> Outcome:
        """Requests a new signing key, and waits until it signs."""
        request = keys_pb2.RotateKeysRequest(algorithm=algorithm, wait=True)
        rotate = self._keys[at].RotateKeys
        async with self._asking.recorded("rotate", by, at) as operation:
            answer = await operation(lambda: rotate(request, timeout=timeout_seconds, metadata=bearer(admin.token)))
            if answer is not None:
                operation.fields["kid"] = operation.outcome.details["kid"] = answer.key.kid
        return operation.outcome

    async def revoke_key(self, by: str, at: str, kid: str, admin: Credential, timeout_seconds: float) -> Outcome:
        """Revokes a key."""
        request = keys_pb2.RevokeKeyRequest(kid=kid, reason="chaos", wait=True)
        revoke = self._keys[at].RevokeKey
        async with self._asking.recorded("revoke-key", by, at, kid=kid, wait=True) as operation:
            answer = await operation(lambda: revoke(request, timeout=timeout_seconds, metadata=bearer(admin.token)))
            if answer is not None:
                operation.fields.update(revision=answer.revision, receipt=receipt_of(answer))
                operation.outcome.details.update(operation.fields)
        return operation.outcome

    async def forged(self, by: str, at: str, kind: str, metadata: Metadata) -> Outcome:
        """Lists the keys with a credential that must not be accepted."""
        async with self._asking.recorded("forged", by, at, kind=kind) as operation:
            await operation(
                lambda: self._keys[at].ListKeys(
                    keys_pb2.ListKeysRequest(), timeout=ISSUE_TIMEOUT_SECONDS, metadata=metadata
                )
            )
        return operation.outcome

    async def _revoking(
        self,
        how: str,
        by: str,
        at: str,
        scope: str,
        wait: bool,
        ask: Callable[[Any], Awaitable[Any]],
        admin: Credential,
    ) -> Outcome:
        async with self._asking.recorded("revoke", by, at, how=how, scope=scope, wait=wait) as operation:
            answer = await operation(lambda: ask(bearer(admin.token)))
            if answer is not None:
                operation.fields.update(revision=answer.revision, receipt=receipt_of(answer))
                operation.outcome.details.update(operation.fields)
        return operation.outcome
