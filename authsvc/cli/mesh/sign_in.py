"""Signing in to the auth service, renewing a credential and signing out, as the profile's client or as a user."""

from __future__ import annotations

import time
from typing import Final

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.mesh.error_advice import CallerAccount
from authsvc.cli.mesh.profile import Profile
from authsvc.cli.mesh.saved_login import SavedLogin, require_login, usable_credential
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.client import ClientSecret

__all__ = ["connect_signed_in", "sign_out"]

AUTH_AUDIENCE: Final = "credmesh.auth"


def connect_signed_in(profile: Profile, *, timeout: float, account: str, preferred: str) -> Connection:
    """Opens a connection that is signed in as the profile's client or as the user of `credmesh login`. Raises Failure.

    timeout    seconds for one call
    account    "client", "user", or "" for the preferred one if it is available, else the other
    preferred  "client" or "user"
    """
    connection = Connection(profile, timeout=timeout)
    try:
        if (account or _available_account(profile, preferred)) == "user":
            _sign_in_user(connection)
        else:
            _sign_in_client(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def sign_out(connection: Connection, login: SavedLogin) -> auth_pb2.LogoutResponse:
    """Ends a login's session. Raises Failure."""
    stub = auth_pb2_grpc.AuthServiceStub(connection.channel)
    return connection.call(stub.Logout, auth_pb2.LogoutRequest(token=login.refresh_token or login.session_token))


def _available_account(profile: Profile, preferred: str) -> str:
    if preferred == "user" and profile.credentials_file.exists():
        return "user"
    if profile.client_id:
        return "client"
    if profile.credentials_file.exists():
        return "user"
    raise Failure(
        f"no user is signed in, and {profile.origin} names no client",
        next_step="Sign in with `credmesh login SUBJECT`, or set client_id and client_secret_file in the profile.",
        code=ExitCode.USAGE,
    )


def _sign_in_client(connection: Connection) -> None:
    profile = connection.profile
    stub = auth_pb2_grpc.AuthServiceStub(connection.channel)

    def new_token() -> str:
        # The secret is read for each request, and not kept.
        source = ClientSecret(profile.client_id, profile.client_secret(), audiences=(AUTH_AUDIENCE,))
        return connection.call(stub.Login, source.login_request(), credential="").credentials.access_token

    connection.account = CallerAccount("client", profile.client_id)
    connection.use_credential(new_token(), renew=lambda _: new_token())


def _sign_in_user(connection: Connection) -> None:
    path = connection.profile.credentials_file
    stub = auth_pb2_grpc.AuthServiceStub(connection.channel)

    def refresh(refresh_token: str) -> auth_pb2.Credentials:
        request = auth_pb2.RefreshRequest(refresh_token=refresh_token)
        return connection.call(stub.Refresh, request, credential="").credentials

    def renew(refused: str) -> str:
        return usable_credential(path, refresh, time.time(), refused=refused)

    login = require_login(path)
    connection.account = CallerAccount("user", login.subject)
    # A session token cannot be renewed: it ends with its session.
    connection.use_credential(renew(""), renew=None if login.session_token else renew)
