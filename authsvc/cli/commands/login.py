"""`credmesh login`, `logout`, `whoami` and `passwd`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.mesh.error_advice import CallerAccount
from authsvc.cli.mesh.profile import require_auth
from authsvc.cli.mesh.saved_login import SavedLogin, delete_login, read_login, require_login, write_login
from authsvc.cli.mesh.sign_in import sign_out
from authsvc.cli.options import Invocation, MeshCommand, pass_invocation
from authsvc.cli.terminal.output import join
from authsvc.cli.terminal.secrets import (
    NEW_PASSWORD_VARIABLE,
    PASSWORD_VARIABLE,
    read_new_password,
    read_password,
)
from authsvc.cli.terminal.times import local_time, relative
from authsvc.store.timestamps import seconds
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.errors import Reason

__all__ = ["login", "logout", "passwd", "whoami"]


@click.command("login", cls=MeshCommand)
@click.argument("subject", required=False)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help=f"Read the password from a file, or `-` for stdin.  [default: {PASSWORD_VARIABLE}, else a prompt]",
)
@click.option("--audience", "audiences", multiple=True, metavar="NAME", help="Only for this service; repeat for more.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Only with this scope; repeat for more.")
@click.option("--opaque", is_flag=True, help="Get one opaque session token instead of access and refresh tokens.")
@pass_invocation
def login(
    invocation: Invocation,
    subject: str | None,
    password_file: Path | None,
    audiences: tuple[str, ...],
    scopes: tuple[str, ...],
    opaque: bool,
) -> None:
    """Sign in as the user SUBJECT.

    The credentials are saved beside the profile, in a file that only you may read. `credmesh token print` prints one
    for other tools, `credmesh logout` ends the session.
    """
    path = require_auth(invocation.profile).credentials_file
    previous = read_login(path)
    subject = subject or _ask_for_subject()
    password = read_password(password_file, f"Password for {subject}")
    request = auth_pb2.LoginRequest(
        password=auth_pb2.PasswordGrant(subject=subject, password=password),
        audiences=audiences,
        scopes=scopes,
        kind=auth_pb2.CREDENTIAL_KIND_SESSION if opaque else auth_pb2.CREDENTIAL_KIND_TOKENS,
    )
    with invocation.connect_anonymously() as auth:
        stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
        auth.account = CallerAccount(name=subject)
        try:
            credentials = auth.call(stub.Login, request).credentials
        except Failure as failure:
            raise _explain_wrong_password(failure, subject) from None
        write_login(path, SavedLogin.of(subject, credentials, time.time()))
        if previous is not None:
            _end_previous_session(invocation, auth, previous)
    _show_login(invocation, subject, credentials, path)


@click.command("logout", cls=MeshCommand)
@pass_invocation
def logout(invocation: Invocation) -> None:
    """Sign out: end the session of `credmesh login`. Every node refuses its credentials."""
    path = require_auth(invocation.profile).credentials_file
    saved = read_login(path)
    if saved is None:
        raise Failure("no user is signed in, so there is no session to end", code=ExitCode.NOTHING)
    with invocation.connect_anonymously() as auth:
        response = sign_out(auth, saved)
    delete_login(path)
    if invocation.as_json:
        invocation.output.message(response)
    elif response.revision:
        invocation.output.line(
            f"Signed {saved.subject} out. Nodes refuse the session from revision {response.revision} on."
        )
    else:
        invocation.output.line(f"Signed {saved.subject} out. The session had ended already.")


@click.command("whoami", cls=MeshCommand)
@pass_invocation
def whoami(invocation: Invocation) -> None:
    """Show your account as the auth service's interceptor sees it: the user who signed in, else the client."""
    with invocation.connect(preferred="user") as auth:
        response = auth.call(auth_pb2_grpc.AuthServiceStub(auth.channel).WhoAmI, auth_pb2.WhoAmIRequest())
        account = auth.account
    if invocation.as_json:
        invocation.output.message(response)
        return
    identity = response.identity
    invocation.output.pairs(
        [
            ("Subject", f"{identity.subject} (the {'user who signed in' if account.kind == 'user' else 'client'})"),
            ("Client", identity.client_id),
            ("Session", identity.session_id or "none: a client asks for a new token when the old one expires"),
            ("Audiences", join(identity.audiences)),
            ("Scopes", join(identity.scopes)),
            ("Epoch", f"{identity.epoch} (a revocation at a greater revision revokes it)"),
        ]
    )


@click.command("passwd", cls=MeshCommand)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help=f"Read your password from a file, or `-` for stdin.  [default: {PASSWORD_VARIABLE}, else a prompt]",
)
@click.option(
    "--new-password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Read the new password from a file.  [default: {NEW_PASSWORD_VARIABLE}, else a prompt]",
)
@pass_invocation
def passwd(invocation: Invocation, password_file: Path | None, new_password_file: Path | None) -> None:
    """Change your own password, as the user who signed in.

    Your other sessions end, and this one is replaced. `credmesh user passwd` sets the password of another user.
    """
    path = require_auth(invocation.profile).credentials_file
    saved = require_login(path, code=ExitCode.USAGE)
    request = auth_pb2.ChangePasswordRequest(
        old_password=read_password(password_file, f"Password of {saved.subject}"),
        new_password=read_new_password(new_password_file, f"New password of {saved.subject}", NEW_PASSWORD_VARIABLE),
        kind=auth_pb2.CREDENTIAL_KIND_SESSION if saved.session_token else auth_pb2.CREDENTIAL_KIND_TOKENS,
    )
    invocation.account = "user"  # whatever --as says: only a user has a password
    with invocation.connect() as auth:
        response = auth.call(auth_pb2_grpc.AuthServiceStub(auth.channel).ChangePassword, request)
    if response.HasField("credentials"):
        write_login(path, SavedLogin.of(saved.subject, response.credentials, time.time()))
        next_step = "You are signed in with a new session."
    else:
        delete_login(path)
        next_step = f"Sign in again: credmesh login {saved.subject}"
    if invocation.as_json:
        invocation.output.message(_without_credentials(response))
    else:
        invocation.output.line(
            f"Changed the password of {saved.subject}. Nodes refuse earlier credentials from revision "
            f"{response.revision} on. {next_step}"
        )


def _ask_for_subject() -> str:
    """Asks for the user's name. Failure without a terminal."""
    if not sys.stdin.isatty():
        raise Failure(
            "the user's name is missing, and there is no terminal to ask for it",
            next_step="Give it: credmesh login SUBJECT",
            code=ExitCode.USAGE,
        )
    name: str = click.prompt("User", err=True)
    return name


def _without_credentials(response: auth_pb2.ChangePasswordResponse) -> auth_pb2.ChangePasswordResponse:
    """The response with public fields only."""
    public = auth_pb2.ChangePasswordResponse(revision=response.revision)
    if response.HasField("credentials"):
        public.credentials.CopyFrom(_without_secrets(response.credentials))
    return public


def _without_secrets(credentials: auth_pb2.Credentials) -> auth_pb2.Credentials:
    public = auth_pb2.Credentials()
    public.CopyFrom(credentials)
    for secret in ("access_token", "refresh_token", "session_token"):
        public.ClearField(secret)
    return public


def _end_previous_session(invocation: Invocation, auth: Connection, previous: SavedLogin) -> None:
    """Ends the session of the login that was just overwritten: its refresh token is lost, so it would only time out."""
    try:
        sign_out(auth, previous)
    except Failure as failure:
        invocation.output.note(
            f"The previous session {previous.session_id} of {previous.subject} could not be ended and will time out: "
            f"{failure.message}"
        )


def _explain_wrong_password(failure: Failure, subject: str) -> Failure:
    if failure.reason != Reason.CREDENTIAL_INVALID.name:
        return failure
    return Failure(
        f"{subject} was not signed in: there is no such user, or the password is wrong",
        next_step="`credmesh user list` shows the users, `credmesh user passwd` sets a password.",
        reason=failure.reason,
    )


def _show_login(invocation: Invocation, subject: str, credentials: auth_pb2.Credentials, path: Path) -> None:
    if invocation.as_json:
        invocation.output.message(_without_secrets(credentials))
        return
    ends = ""
    if credentials.HasField("session_expires_at"):
        at = seconds(credentials.session_expires_at)
        ends = f" The session ends {relative(at, time.time())} at the latest, at {local_time(at)}."
    invocation.output.line(f"Signed in as {subject}.{ends}")
    invocation.output.pairs(
        [("Audiences", join(credentials.audiences)), ("Scopes", join(credentials.scopes)), ("Saved in", str(path))]
    )
