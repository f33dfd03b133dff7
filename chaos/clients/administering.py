"""What operators ask: revocations with receipts, rotations. The records are those of `asking`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from chaos.clients.answers import Outcome, receipt_of
from chaos.clients.asking import ISSUE, Asking
from chaos.clients.credentials import Credential, bearer
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

__all__ = ["Administering"]

Metadata = tuple[tuple[str, str | bytes], ...]

_FIELDS: Final = {"sub": "subject", "sid": "session_id", "client": "client_id", "aud": "audience"}


class Administering:
    """The questions of operators, over the channels of `asking`."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        channels = asking.auth_channels
        self._auth: dict[str, Any] = {name: auth_pb2_grpc.AuthServiceStub(c) for name, c in channels.items()}
        self._keys: dict[str, Any] = {name: keys_pb2_grpc.KeyServiceStub(c) for name, c in channels.items()}
        self._sessions: dict[str, Any] = {name: sessions_pb2_grpc.SessionServiceStub(c) for name, c in channels.items()}
        self._revocation: dict[str, Any] = {
            name: revocation_pb2_grpc.RevocationServiceStub(c) for name, c in channels.items()
        }

    async def revoke(self, by: str, at: str, scope: str, admin: Credential, *, wait: bool, patience: float) -> Outcome:
        """Revokes a scope, as interceptors.keyspace names it. What was answered is in the outcome's `details`."""
        request = revocation_pb2.RevokeRequest(reason="chaos", wait=wait)
        if scope == EVERYONE:
            request.everyone = True
        else:
            kind, _, name = scope.partition("/")
            setattr(request, _FIELDS[kind], name)
        revoke = self._revocation[at].Revoke
        return await self._revoking(
            "revoke", by, at, scope, wait, lambda m: revoke(request, timeout=patience, metadata=m), admin
        )

    async def kick(self, by: str, at: str, session: str, admin: Credential, *, wait: bool, patience: float) -> Outcome:
        """Ends a session as an operator."""
        request = sessions_pb2.KickSessionRequest(session_id=session, reason="chaos", wait=wait)
        kick = self._sessions[at].KickSession
        scope = session_scope(session)
        return await self._revoking(
            "kick", by, at, scope, wait, lambda m: kick(request, timeout=patience, metadata=m), admin
        )

    async def logout(self, by: str, at: str, held: Credential) -> Outcome:
        """Ends a session as its holder."""
        request = auth_pb2.LogoutRequest(token=held.refresh_token or held.token)
        logout = self._auth[at].Logout
        return await self._revoking(
            "logout", by, at, session_scope(held.session or ""), False, lambda _: logout(request, timeout=ISSUE), held
        )

    async def rotate(self, by: str, at: str, algorithm: Any, admin: Credential, patience: float) -> Outcome:
        """Asks for a new signing key, and waits until it signs."""
        request = keys_pb2.RotateKeysRequest(algorithm=algorithm, wait=True)
        rotate = self._keys[at].RotateKeys
        async with self._asking.noted("rotate", by, at) as note:
            answer = await note(lambda: rotate(request, timeout=patience, metadata=bearer(admin.token)))
            if answer is not None:
                note.fields["kid"] = note.outcome.details["kid"] = answer.key.kid
        return note.outcome

    async def revoke_key(self, by: str, at: str, kid: str, admin: Credential, patience: float) -> Outcome:
        """Removes a key at once."""
        request = keys_pb2.RevokeKeyRequest(kid=kid, reason="chaos", wait=True)
        revoke = self._keys[at].RevokeKey
        async with self._asking.noted("revoke-key", by, at, kid=kid, wait=True) as note:
            answer = await note(lambda: revoke(request, timeout=patience, metadata=bearer(admin.token)))
            if answer is not None:
                note.fields.update(revision=answer.revision, receipt=receipt_of(answer))
                note.outcome.details.update(note.fields)
        return note.outcome

    async def forged(self, by: str, at: str, kind: str, metadata: Metadata) -> Outcome:
        """Asks for the keys with something that must not be accepted."""
        async with self._asking.noted("forged", by, at, kind=kind) as note:
            await note(lambda: self._keys[at].ListKeys(keys_pb2.ListKeysRequest(), timeout=ISSUE, metadata=metadata))
        return note.outcome

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
        async with self._asking.noted("revoke", by, at, how=how, scope=scope, wait=wait) as note:
            answer = await note(lambda: ask(bearer(admin.token)))
            if answer is not None:
                note.fields.update(revision=answer.revision, receipt=receipt_of(answer))
                note.outcome.details.update(note.fields)
        return note.outcome
