"""Asking the mesh, and writing down what was asked and answered.

Operations that the history gets from here, besides "t" (asked), "u" (answered) and "by":

    login, refresh   at, answer; who: subject, client; used: the refresh token (refresh); and if the answer is "ok" what
                     was issued: cred, kind, sid, epoch, kid, iat, exp, aud, refresh
    call             at, method, cred, answer; and if it is "ok": node, mono, wall (see chaos.system.service)
    stream           at, method, cred, answer; messages, of the last one node, mono and seen (when it was received), and
                     trail: mono and wall of the last six
    revoke           at, how (revoke, kick or logout), scope, wait, answer; revision, and receipt: complete, strict_in,
                     applied and lagging (ids of nodes), and left: the lagging ones whose registration is said to
                     have ended
    rotate           at, answer, kid
    revoke-key       at, kid, wait, answer, revision, and receipt
    forged           at, kind, answer

"answer" is "ok", "refused" (credmesh said why: reason), "error" (another status that tells that nothing was done: code)
or "none" (nobody knows whether it was done: code). Credentials and refresh tokens are never written down: what stands
for one is the beginning of its SHA-256.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from chaos.clients.answers import Outcome, outcome_of
from chaos.clients.credentials import Credential, bearer, claims_of, described, short
from chaos.history import History
from chaos.system import service
from chaos.system.accounts import PASSWORD
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc

__all__ = ["ISSUE", "PATIENT", "Asking", "Note"]

CALL: Final = 1.5
ISSUE: Final = 4.0
PATIENT: Final = 7.0
"""Longer than a node asks etcd for a key that it does not know: who waits so long gets an answer."""
_TRAIL: Final = 6
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),  # what is asked once is to be asked once
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
)


class Asking:
    """The channels to all parts, and every kind of question.

    counts  answers so far, by operation and answer
    """

    def __init__(self, history: History, auths: Mapping[str, str], nodes: Mapping[str, str], lifetime: float) -> None:
        self.counts: Counter[str] = Counter()
        self._history = history
        self._lifetime = lifetime
        self._channels = {
            name: grpc.aio.insecure_channel(target, options=_OPTIONS) for name, target in {**auths, **nodes}.items()
        }
        self.auth_channels = {name: self._channels[name] for name in auths}
        self._auth: dict[str, Any] = {name: auth_pb2_grpc.AuthServiceStub(self._channels[name]) for name in auths}
        text: Any = {
            "request_serializer": StringValue.SerializeToString,
            "response_deserializer": StringValue.FromString,
        }
        self._unary: dict[tuple[str, str], Any] = {
            (name, method): self._channels[name].unary_unary(service.path(method), **text)
            for name in nodes
            for method in ("Plain", "Strict")
        }
        self._stream: dict[tuple[str, str], Any] = {
            (name, method): self._channels[name].unary_stream(service.path(method), **text)
            for name in nodes
            for method in ("Stream", "StrictStream")
        }

    async def close(self) -> None:
        """Ends all connections."""
        for channel in self._channels.values():
            await channel.close()

    async def login_user(self, by: str, at: str, subject: str, *, opaque: bool) -> Credential | None:
        """Signs a user in; None if that failed."""
        request = auth_pb2.LoginRequest(
            password=auth_pb2.PasswordGrant(subject=subject, password=PASSWORD),
            kind=auth_pb2.CREDENTIAL_KIND_SESSION if opaque else auth_pb2.CREDENTIAL_KIND_TOKENS,
        )
        return await self._issue(
            "login", by, at, lambda: self._auth[at].Login(request, timeout=ISSUE), subject, "password", {}
        )

    async def login_client(self, by: str, at: str, client: str, secret: str) -> Credential | None:
        """Signs a client in for itself."""
        grant = auth_pb2.ClientCredentialsGrant(client_id=client, client_secret=secret)
        request = auth_pb2.LoginRequest(client_credentials=grant)
        return await self._issue(
            "login", by, at, lambda: self._auth[at].Login(request, timeout=ISSUE), client, client, {}
        )

    async def refresh(self, by: str, at: str, held: Credential, refresh_token: str) -> Credential | Outcome:
        """Trades a refresh token of the session of `held`."""
        request = auth_pb2.RefreshRequest(refresh_token=refresh_token)
        fields = {"used": short(refresh_token), "session": held.session}
        found: list[Outcome] = []
        issued = await self._issue(
            "refresh",
            by,
            at,
            lambda: self._auth[at].Refresh(request, timeout=ISSUE),
            held.subject,
            held.client,
            fields,
            found,
        )
        return issued or found[0]

    async def call(self, by: str, at: str, method: str, held: Credential, patience: float = CALL) -> Outcome:
        """One unary call of a node."""
        call = self._unary[at, method]
        async with self.noted("call", by, at, method=method, cred=held.id) as note:
            answer = await note(lambda: call(StringValue(), timeout=patience, metadata=bearer(held.token)))
            if answer is not None:
                stamp = json.loads(answer.value)
                note.fields.update(node=stamp["id"], mono=stamp["mono"], wall=stamp["wall"])
        return note.outcome

    async def stream(self, by: str, at: str, method: str, held: Credential, seconds: float) -> Outcome:
        """A stream of a node, kept open for so long unless it ends before."""
        async with self.noted("stream", by, at, method=method, cred=held.id) as note:
            call = self._stream[at, method](StringValue(), timeout=seconds + CALL, metadata=bearer(held.token))
            until = time.monotonic() + seconds
            messages = 0
            trail: deque[tuple[float, float]] = deque(maxlen=_TRAIL)

            async def receive() -> None:
                nonlocal messages
                async for message in call:
                    messages += 1
                    stamp = json.loads(message.value)
                    trail.append((stamp["mono"], stamp["wall"]))
                    note.fields.update(node=stamp["id"], mono=stamp["mono"], seen=time.monotonic())
                    if time.monotonic() > until:
                        return

            await note(receive)
            call.cancel()
            note.fields.update(messages=messages, trail=list(trail))
        return note.outcome

    async def forged(
        self, by: str, at: str, kind: str, metadata: tuple[tuple[str, str | bytes], ...], method: str
    ) -> Outcome:
        """A call with something that must not be accepted."""
        call = self._unary[at, method]
        async with self.noted("forged", by, at, kind=kind) as note:
            await note(lambda: call(StringValue(), timeout=CALL, metadata=metadata))
        return note.outcome

    async def forged_refresh(self, by: str, at: str, kind: str, token: str) -> Outcome:
        """A refresh with something that must not be accepted."""
        request = auth_pb2.RefreshRequest(refresh_token=token)
        async with self.noted("forged", by, at, kind=kind) as note:
            await note(lambda: self._auth[at].Refresh(request, timeout=ISSUE))
        return note.outcome

    async def key_set(self, at: str) -> auth_pb2.GetKeySetResponse | None:
        """The public keys; None if they cannot be had now."""
        try:
            answer: auth_pb2.GetKeySetResponse = await self._auth[at].GetKeySet(
                auth_pb2.GetKeySetRequest(), timeout=ISSUE
            )
        except grpc.RpcError:
            return None
        return answer

    async def _issue(
        self,
        op: str,
        by: str,
        at: str,
        ask: Callable[[], Awaitable[Any]],
        subject: str,
        client: str,
        fields: dict[str, Any],
        found: list[Outcome] | None = None,
    ) -> Credential | None:
        credential = None
        async with self.noted(op, by, at, subject=subject, client=client, **fields) as note:
            answer = await note(ask)
            if answer is not None:
                issued = answer.credentials
                credential = self._credential(issued, subject, client, note.asked)
                note.fields.update(described(credential, issued))
        if found is not None:
            found.append(note.outcome)
        return credential

    def _credential(self, issued: auth_pb2.Credentials, subject: str, client: str, asked: float) -> Credential:
        token = issued.access_token or issued.session_token
        claims = claims_of(issued.access_token)
        return Credential(
            id=short(token),
            token=token,
            subject=subject,
            client=client,
            kind="opaque" if issued.session_token else "token",
            session=issued.session_id or None,
            audiences=tuple(issued.audiences),
            answered=time.monotonic(),
            good_until=asked + self._lifetime - 1.0,
            refresh_token=issued.refresh_token or None,
            kid=claims.get("kid"),
        )

    @asynccontextmanager
    async def noted(self, op: str, by: str, at: str, **fields: Any) -> AsyncIterator[Note]:
        """Writes down what is asked within: `note(ask)` asks."""
        note = Note(fields)
        try:
            yield note
        except asyncio.CancelledError:
            note.outcome = Outcome("none", code="CANCELLED")
            raise
        finally:
            outcome = note.outcome
            said: dict[str, Any] = {"reason": outcome.reason} if outcome.reason else {}
            if outcome.code:
                said["code"] = outcome.code
            self._history.write(op, by=by, asked=note.asked, at=at, answer=outcome.answer, **said, **note.fields)
            self.counts[f"{op} {outcome.answer}"] += 1
            if outcome.answer == "ok" and note.fields.get("receipt"):
                self.counts["receipt"] += 1


class Note:
    """What is to be written down of one question."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.outcome = Outcome("none")
        self.asked = time.monotonic()

    async def __call__(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Asks; the answer, or None if there was none that is good."""
        try:
            answer = await ask()
        except grpc.aio.AioRpcError as error:
            self.outcome = outcome_of(error)
            return None
        self.outcome = Outcome("ok")
        return answer
