"""Calls of the mesh, each recorded in the operation log.

The operations that are recorded here, with their fields besides "t" (asked), "u" (answered) and "by":

    login, refresh   at, answer; subject, client; used: the refresh token (refresh only); and if the answer is "ok", the
                     credential that was issued: cred, kind, sid, epoch, kid, iat, exp, aud, refresh
    call             at, method, cred, answer; and if it is "ok": node, mono, wall (see chaos.system.service)
    stream           at, method, cred, answer; messages; of the last one: node, mono and seen (when it was received);
                     trail: mono and wall of the last six messages
    revoke           at, how (revoke, kick or logout), scope, wait, answer; revision, and receipt: complete, strict_in,
                     applied and lagging (ids of nodes), and left: the lagging nodes whose registration has ended,
                     according to the receipt
    rotate           at, answer, kid
    revoke-key       at, kid, wait, answer, revision, and receipt
    forged           at, kind, answer

"answer" is "ok"; "refused" (credmesh has given a reason: reason); "error" (another status, which tells that nothing was
done: code); or "none" (it is unknown whether it was done: code). Credentials and refresh tokens are never logged: the
beginning of a token's SHA-256 stands for it.
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
from chaos.clients.credentials import Credential, bearer, claims_of, described, fingerprint
from chaos.operation_log import OperationLog
from chaos.system import service
from chaos.system.accounts import PASSWORD
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc

__all__ = ["ISSUE_TIMEOUT_SECONDS", "PATIENT_CALL_TIMEOUT_SECONDS", "MeshClient", "OperationRecorder"]

CALL_TIMEOUT_SECONDS: Final = 1.5
ISSUE_TIMEOUT_SECONDS: Final = 4.0
PATIENT_CALL_TIMEOUT_SECONDS: Final = 7.0
"""Longer than a node's attempt to fetch an unknown key from etcd: a call with this timeout gets an answer."""
_TRAIL_LENGTH: Final = 6
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),  # each recorded operation must be sent once
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
)


class MeshClient:
    """The channels to all nodes and replicas, and a method for each kind of call.

    counts  answers so far, by operation and answer
    """

    def __init__(
        self, operation_log: OperationLog, auths: Mapping[str, str], nodes: Mapping[str, str], lifetime: float
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._operation_log = operation_log
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
            "login",
            by,
            at,
            lambda: self._auth[at].Login(request, timeout=ISSUE_TIMEOUT_SECONDS),
            subject,
            "password",
            {},
        )

    async def login_client(self, by: str, at: str, client: str, secret: str) -> Credential | None:
        """Signs a client in for itself."""
        grant = auth_pb2.ClientCredentialsGrant(client_id=client, client_secret=secret)
        request = auth_pb2.LoginRequest(client_credentials=grant)
        return await self._issue(
            "login", by, at, lambda: self._auth[at].Login(request, timeout=ISSUE_TIMEOUT_SECONDS), client, client, {}
        )

    async def refresh(self, by: str, at: str, held: Credential, refresh_token: str) -> Credential | Outcome:
        """Presents a refresh token of the session of `held`."""
        request = auth_pb2.RefreshRequest(refresh_token=refresh_token)
        fields = {"used": fingerprint(refresh_token), "session": held.session}
        found: list[Outcome] = []
        issued = await self._issue(
            "refresh",
            by,
            at,
            lambda: self._auth[at].Refresh(request, timeout=ISSUE_TIMEOUT_SECONDS),
            held.subject,
            held.client,
            fields,
            found,
        )
        return issued or found[0]

    async def call(
        self, by: str, at: str, method: str, held: Credential, timeout_seconds: float = CALL_TIMEOUT_SECONDS
    ) -> Outcome:
        """Makes one unary call to a node."""
        call = self._unary[at, method]
        async with self.recorded("call", by, at, method=method, cred=held.id) as operation:
            answer = await operation(lambda: call(StringValue(), timeout=timeout_seconds, metadata=bearer(held.token)))
            if answer is not None:
                stamp = json.loads(answer.value)
                operation.fields.update(node=stamp["id"], mono=stamp["mono"], wall=stamp["wall"])
        return operation.outcome

    async def stream(self, by: str, at: str, method: str, held: Credential, seconds: float) -> Outcome:
        """Opens a stream of a node for this long, unless it ends before."""
        async with self.recorded("stream", by, at, method=method, cred=held.id) as operation:
            call = self._stream[at, method](
                StringValue(), timeout=seconds + CALL_TIMEOUT_SECONDS, metadata=bearer(held.token)
            )
            until = time.monotonic() + seconds
            messages = 0
            trail: deque[tuple[float, float]] = deque(maxlen=_TRAIL_LENGTH)

            async def receive() -> None:
                nonlocal messages
                async for message in call:
                    messages += 1
                    stamp = json.loads(message.value)
                    trail.append((stamp["mono"], stamp["wall"]))
                    operation.fields.update(node=stamp["id"], mono=stamp["mono"], seen=time.monotonic())
                    if time.monotonic() > until:
                        return

            await operation(receive)
            call.cancel()
            operation.fields.update(messages=messages, trail=list(trail))
        return operation.outcome

    async def forged(
        self, by: str, at: str, kind: str, metadata: tuple[tuple[str, str | bytes], ...], method: str
    ) -> Outcome:
        """Makes a call with a credential that must not be accepted."""
        call = self._unary[at, method]
        async with self.recorded("forged", by, at, kind=kind) as operation:
            await operation(lambda: call(StringValue(), timeout=CALL_TIMEOUT_SECONDS, metadata=metadata))
        return operation.outcome

    async def forged_refresh(self, by: str, at: str, kind: str, token: str) -> Outcome:
        """Presents a refresh token that must not be accepted."""
        request = auth_pb2.RefreshRequest(refresh_token=token)
        async with self.recorded("forged", by, at, kind=kind) as operation:
            await operation(lambda: self._auth[at].Refresh(request, timeout=ISSUE_TIMEOUT_SECONDS))
        return operation.outcome

    async def key_set(self, at: str) -> auth_pb2.GetKeySetResponse | None:
        """The public keys; None if the replica does not answer."""
        try:
            answer: auth_pb2.GetKeySetResponse = await self._auth[at].GetKeySet(
                auth_pb2.GetKeySetRequest(), timeout=ISSUE_TIMEOUT_SECONDS
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
        async with self.recorded(op, by, at, subject=subject, client=client, **fields) as operation:
            answer = await operation(ask)
            if answer is not None:
                issued = answer.credentials
                credential = self._credential(issued, subject, client, operation.asked)
                operation.fields.update(described(credential, issued))
        if found is not None:
            found.append(operation.outcome)
        return credential

    def _credential(self, issued: auth_pb2.Credentials, subject: str, client: str, asked: float) -> Credential:
        token = issued.access_token or issued.session_token
        claims = claims_of(issued.access_token)
        return Credential(
            id=fingerprint(token),
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
    async def recorded(self, op: str, by: str, at: str, **fields: Any) -> AsyncIterator[OperationRecorder]:
        """Logs the operation of the `async with` block, which calls `operation(ask)`."""
        operation = OperationRecorder(fields)
        try:
            yield operation
        except asyncio.CancelledError:
            operation.outcome = Outcome("none", code="CANCELLED")
            raise
        finally:
            outcome = operation.outcome
            failure: dict[str, Any] = {"reason": outcome.reason} if outcome.reason else {}
            if outcome.code:
                failure["code"] = outcome.code
            self._operation_log.write(
                op, by=by, asked=operation.asked, at=at, answer=outcome.answer, **failure, **operation.fields
            )
            self.counts[f"{op} {outcome.answer}"] += 1
            if outcome.answer == "ok" and operation.fields.get("receipt"):
                self.counts["receipt"] += 1


class OperationRecorder:
    """Collects the record of one operation."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.outcome = Outcome("none")
        self.asked = time.monotonic()

    async def __call__(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Makes the call. Returns the answer, or None if the call failed; `outcome` tells why."""
        try:
            answer = await ask()
        except grpc.aio.AioRpcError as error:
            self.outcome = outcome_of(error)
            return None
        self.outcome = Outcome("ok")
        return answer
