"""A real gRPC server that issues credentials and checks them on calls of all four kinds, with failures on demand."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Self

import grpc
from google.protobuf.duration_pb2 import Duration

from credmesh.auth.v1 import auth_pb2
from interceptors.errors import Reason, Refusal, reason_of

__all__ = ["BIDI", "CLIENT_STREAM", "SERVER_STREAM", "UNARY", "World", "methods", "reason_in"]

UNARY = "/echo.Echo/Unary"
SERVER_STREAM = "/echo.Echo/ServerStream"
CLIENT_STREAM = "/echo.Echo/ClientStream"
BIDI = "/echo.Echo/Bidi"


class World:
    """An auth service, and a service whose responses repeat the credential and the request.

    lifetime         seconds until an access token expires; None: the response does not say
    refuse_login     the reason for which logins are refused, or None; refuse_refresh likewise
    client_secret    the only secret that logins of clients may have; None: any
    lose_responses   the number of responses of the auth service to lose, after it has done its work
    gate             the auth service responds only while it is set
    asked            set when the auth service has received a request
    inside, left     set when a "hold" request has entered its handler, and when it has left it
    go_on            lets a "hold" request leave its handler
    logins, refreshes, calls   the requests that were received
    """

    def __init__(self) -> None:
        self.lifetime: float | None = 300.0
        self.refuse_login: Reason | grpc.StatusCode | None = None
        self.refuse_refresh: Reason | grpc.StatusCode | None = None
        self.client_secret: str | None = None
        self.lose_responses = 0
        self.gate = threading.Event()
        self.gate.set()
        self.logins: list[auth_pb2.LoginRequest] = []
        self.refreshes: list[str] = []
        self.calls: list[tuple[str, tuple[tuple[str, str | bytes], ...], float | None]] = []
        self.refusals: dict[str, Reason] = {}
        self.refuse_everything: Reason | None = None
        self.asked = threading.Event()
        self.inside = threading.Event()
        self.left = threading.Event()
        self.go_on = threading.Event()
        self._numbers = itertools.count(1)
        self._good_until: dict[str, float] = {}
        self._refresh_tokens: set[str] = set()
        self._server: grpc.Server | None = None
        self.port = 0

    @property
    def target(self) -> str:
        """The address of the server."""
        return f"127.0.0.1:{self.port}"

    def refuse(self, token: str, reason: Reason) -> None:
        """Has this credential refused from now on."""
        self.refusals[token] = reason

    # The auth service

    def login(self, request: auth_pb2.LoginRequest, context: Any) -> auth_pb2.LoginResponse:
        self.logins.append(request)
        if self.client_secret not in (None, request.client_credentials.client_secret):
            _abort(context, Reason.CREDENTIAL_INVALID)
        return auth_pb2.LoginResponse(credentials=self._answer(context, self.refuse_login, request.kind))

    def refresh(self, request: auth_pb2.RefreshRequest, context: Any) -> auth_pb2.RefreshResponse:
        self.refreshes.append(request.refresh_token)
        if request.refresh_token not in self._refresh_tokens:
            _abort(context, Reason.CREDENTIAL_INVALID)
        return auth_pb2.RefreshResponse(credentials=self._answer(context, self.refuse_refresh, 0))

    def _answer(self, context: Any, refusal: Reason | grpc.StatusCode | None, kind: int) -> auth_pb2.Credentials:
        self.asked.set()
        self.gate.wait(30)
        if refusal is not None:
            _abort(context, refusal)
        number = next(self._numbers)
        token, refresh_token = f"token-{number}", f"refresh-{number}"
        self._good_until[token] = time.monotonic() + (self.lifetime or 1e9)
        self._refresh_tokens.add(refresh_token)
        if self.lose_responses:
            self.lose_responses -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the response was lost")
        if kind == auth_pb2.CREDENTIAL_KIND_SESSION:
            return auth_pb2.Credentials(session_token=token, session_id=f"session-{number}")
        expires_in = None
        if self.lifetime is not None:
            expires_in = Duration()
            expires_in.FromNanoseconds(round(self.lifetime * 1e9))
        return auth_pb2.Credentials(
            access_token=token, expires_in=expires_in, refresh_token=refresh_token, session_id=f"session-{number}"
        )

    # The service

    def _check(self, context: Any) -> str:
        metadata = tuple((key, value) for key, value in context.invocation_metadata())
        credentials = [value for key, value in metadata if key == "authorization"]
        self.calls.append((credentials[0] if credentials else "", metadata, context.time_remaining()))
        if len(credentials) != 1:
            _abort(context, Reason.CREDENTIAL_MISSING)
        token: str = credentials[0].removeprefix("Bearer ")
        if self.refuse_everything is not None:
            _abort(context, self.refuse_everything)
        if token in self.refusals:
            _abort(context, self.refusals[token])
        if time.monotonic() >= self._good_until.get(token, 1e18):
            _abort(context, Reason.CREDENTIAL_EXPIRED)
        return token

    def unary(self, request: bytes, context: Any) -> bytes:
        token = self._check(context)
        if request == b"hold":
            self._hold(context)
        if request == b"fail":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        context.send_initial_metadata((("x-handler", token),))
        context.set_trailing_metadata((("x-trailing", token),))
        return _echo(token, request)

    def server_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        token = self._check(context)
        context.send_initial_metadata((("x-handler", token),))
        if request == b"hold":
            self._hold(context)
            return
        yield _echo(token, request)
        if request == b"then hold":
            self._hold(context)
        if request == b"then refuse":
            _abort(context, Reason.CREDENTIAL_REVOKED)
        yield _echo(token, b"end")

    def client_stream(self, requests: Iterator[bytes], context: Any) -> bytes:
        token = self._check(context)
        return _echo(token, b" ".join(requests))

    def bidi(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        token = self._check(context)
        for request in requests:
            if request == b"then refuse":
                _abort(context, Reason.CREDENTIAL_REVOKED)
            yield _echo(token, request)

    def _hold(self, context: Any) -> None:
        context.add_callback(self.go_on.set)
        self.inside.set()
        self.go_on.wait(30)
        self.left.set()

    # The server

    def start(
        self, port: int = 0, credentials: grpc.ServerCredentials | None = None, address: str | None = None
    ) -> None:
        """Starts serving, on a free port by default."""
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([_auth_handlers(self), _echo_handlers(self)])
        address = address or f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self._server.start()

    def stop(self) -> None:
        """Ends every call and stops listening."""
        self.gate.set()
        self.go_on.set()
        if self._server is not None:
            self._server.stop(0).wait(10)
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _echo(token: str, request: bytes) -> bytes:
    return token.encode() + b": " + request


def _abort(context: Any, why: Reason | grpc.StatusCode) -> NoReturn:
    if isinstance(why, Reason):
        refusal = Refusal(why)
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.status, refusal.message)
    context.abort(why, "the test wants it to fail")
    raise AssertionError("abort raises")


def _auth_handlers(world: World) -> grpc.GenericRpcHandler:
    handlers: dict[str, Any] = {
        "Login": grpc.unary_unary_rpc_method_handler(
            world.login, auth_pb2.LoginRequest.FromString, auth_pb2.LoginResponse.SerializeToString
        ),
        "Refresh": grpc.unary_unary_rpc_method_handler(
            world.refresh, auth_pb2.RefreshRequest.FromString, auth_pb2.RefreshResponse.SerializeToString
        ),
    }
    return grpc.method_handlers_generic_handler("credmesh.auth.v1.AuthService", handlers)


def _echo_handlers(world: World) -> grpc.GenericRpcHandler:
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(world.unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(world.server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(world.client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(world.bidi),
    }
    return grpc.method_handlers_generic_handler("echo.Echo", handlers)


def methods(channel: Any) -> Any:
    """Returns the service's four methods on a sync or aio channel: unary, server stream, client stream, bidi."""
    return (
        channel.unary_unary(UNARY),
        channel.unary_stream(SERVER_STREAM),
        channel.stream_unary(CLIENT_STREAM),
        channel.stream_stream(BIDI),
    )


def reason_in(error: Any) -> Reason | None:
    """Returns the reason of a refusal."""
    return reason_of(error.trailing_metadata())
