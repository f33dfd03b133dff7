"""`credmesh login`, `logout`, `whoami` and `passwd`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.mesh.error_advice import Speaker
from authsvc.cli.mesh.profile import require_auth
from authsvc.cli.mesh.saved_login import SavedLogin, delete_login, read_login, write_login
from authsvc.cli.options import Invocation, MeshCommand, pass_invocation
from authsvc.cli.terminal.output import join
from authsvc.cli.terminal.secrets import NEW_PASSWORD_VARIABLE, PASSWORD_VARIABLE, new_password, password
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
    help=f"Read the password from a file, or `-` for stdin.  [default: {PASSWORD_VARIABLE}, else it is asked for]",
)
@click.option("--audience", "audiences", multiple=True, metavar="NAME", help="Only for this service; repeat for more.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Only to do this; repeat for more.")
@click.option("--opaque", is_flag=True, help="Ask for one opaque session token in place of access and refresh tokens.")
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

    The credentials are kept beside the profile, in a file that only you may read. `credmesh token print` gives one to
    other tools, `credmesh logout` ends the session.
    """
    path = require_auth(invocation.profile).credentials_file
    before = read_login(path)
    subject = subject or _ask_who()
    request = auth_pb2.LoginRequest(
        password=auth_pb2.PasswordGrant(subject=subject, password=password(password_file, f"Password for {subject}")),
        audiences=audiences,
        scopes=scopes,
        kind=auth_pb2.CREDENTIAL_KIND_SESSION if opaque else auth_pb2.CREDENTIAL_KIND_TOKENS,
    )
    with invocation.connect_anonymously() as auth:
        stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
        auth.speaker = Speaker(name=subject)
        try:
            credentials = auth.call(stub.Login, request).credentials
        except Failure as failure:
            raise _wrong_password(failure, subject) from None
        write_login(path, SavedLogin.of(subject, credentials, time.time()))
        if before is not None:
            _end(invocation, auth, before)
    _say(invocation, subject, credentials, path)


@click.command("logout", cls=MeshCommand)
@pass_invocation
def logout(invocation: Invocation) -> None:
    """Sign out: end the session of `credmesh login`, so that no node takes its credentials any more."""
    path = require_auth(invocation.profile).credentials_file
    saved = read_login(path)
    if saved is None:
        raise Failure("nobody is signed in, so there is nothing to end", code=ExitCode.NOTHING)
    with invocation.connect_anonymously() as auth:
        stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
        answer = auth.call(stub.Logout, auth_pb2.LogoutRequest(token=saved.refresh_token or saved.session_token))
    delete_login(path)
    if invocation.as_json:
        invocation.output.message(answer)
    elif answer.revision:
        invocation.output.line(
            f"Signed {saved.subject} out: from revision {answer.revision} on nodes refuse the session."
        )
    else:
        invocation.output.line(f"Signed {saved.subject} out; the session had ended already.")


@click.command("whoami", cls=MeshCommand)
@pass_invocation
def whoami(invocation: Invocation) -> None:
    """Say who you are, as the auth service's own interceptor sees it: the user who signed in, else the client."""
    with invocation.connect(prefer="user") as auth:
        answer = auth.call(auth_pb2_grpc.AuthServiceStub(auth.channel).WhoAmI, auth_pb2.WhoAmIRequest())
        speaker = auth.speaker
    if invocation.as_json:
        invocation.output.message(answer)
        return
    identity = answer.identity
    invocation.output.pairs(
        [
            ("Subject", f"{identity.subject} (the {'user who signed in' if speaker.kind == 'user' else 'client'})"),
            ("Client", identity.client_id),
            ("Session", identity.session_id or "none: such a token is asked for anew"),
            ("Audiences", join(identity.audiences)),
            ("Scopes", join(identity.scopes)),
            ("Epoch", f"{identity.epoch} (a revocation with a greater revision ends it)"),
        ]
    )


@click.command("passwd", cls=MeshCommand)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help=f"Read your password from a file, or `-` for stdin.  [default: {PASSWORD_VARIABLE}, else it is asked for]",
)
@click.option(
    "--new-password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Read the new one from a file.  [default: {NEW_PASSWORD_VARIABLE}, else it is asked for]",
)
@pass_invocation
def passwd(invocation: Invocation, password_file: Path | None, new_password_file: Path | None) -> None:
    """Change your own password, as the user who signed in.

    Your other sessions end, and this one is replaced. `credmesh user passwd` sets somebody else's.
    """
    path = require_auth(invocation.profile).credentials_file
    saved = read_login(path)
    if saved is None:
        raise Failure("nobody is signed in", next_step="Sign in: credmesh login SUBJECT", code=ExitCode.USAGE)
    request = auth_pb2.ChangePasswordRequest(
        old_password=password(password_file, f"Password of {saved.subject}"),
        new_password=new_password(new_password_file, f"New password of {saved.subject}", NEW_PASSWORD_VARIABLE),
        kind=auth_pb2.CREDENTIAL_KIND_SESSION if saved.session_token else auth_pb2.CREDENTIAL_KIND_TOKENS,
    )
    invocation.speak_as = "user"  # whoever else the profile could speak as, a password is a user's
    with invocation.connect() as auth:
        answer = auth.call(auth_pb2_grpc.AuthServiceStub(auth.channel).ChangePassword, request)
    if answer.HasField("credentials"):
        write_login(path, SavedLogin.of(saved.subject, answer.credentials, time.time()))
        next_step = "You are signed in anew."
    else:
        delete_login(path)
        next_step = f"Sign in anew: credmesh login {saved.subject}"
    if invocation.as_json:
        invocation.output.message(_public(answer))
    else:
        invocation.output.line(
            f"Changed the password of {saved.subject}: from revision {answer.revision} on nodes refuse what was issued "
            f"before. {next_step}"
        )


def _ask_who() -> str:
    """The user's name, asked for. Failure if there is nobody to ask."""
    if not sys.stdin.isatty():
        raise Failure(
            "there is no terminal to ask who signs in",
            next_step="Say it: credmesh login SUBJECT",
            code=ExitCode.USAGE,
        )
    name: str = click.prompt("User", err=True)
    return name


def _public(answer: auth_pb2.ChangePasswordResponse) -> auth_pb2.ChangePasswordResponse:
    public = auth_pb2.ChangePasswordResponse(revision=answer.revision)
    if answer.HasField("credentials"):
        public.credentials.CopyFrom(_without_secrets(answer.credentials))
    return public


def _without_secrets(credentials: auth_pb2.Credentials) -> auth_pb2.Credentials:
    public = auth_pb2.Credentials()
    public.CopyFrom(credentials)
    for secret in ("access_token", "refresh_token", "session_token"):
        public.ClearField(secret)
    return public


def _end(invocation: Invocation, auth: Connection, before: SavedLogin) -> None:
    """Ends the session that the new one takes the place of: nobody would have its refresh token any more."""
    stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
    try:
        auth.call(stub.Logout, auth_pb2.LogoutRequest(token=before.refresh_token or before.session_token))
    except Failure as failure:
        invocation.output.note(
            f"The session before, {before.session_id} of {before.subject}, was not ended and will time out: "
            f"{failure.message}"
        )


def _wrong_password(failure: Failure, subject: str) -> Failure:
    if failure.reason != Reason.CREDENTIAL_INVALID.name:
        return failure
    return Failure(
        f"{subject} was not signed in: there is no such user, or the password is another one",
        next_step="`credmesh user list` shows the users, `credmesh user passwd` sets a password.",
        reason=failure.reason,
    )


def _say(invocation: Invocation, subject: str, credentials: auth_pb2.Credentials, path: Path) -> None:
    if invocation.as_json:
        invocation.output.message(_without_secrets(credentials))
        return
    ends = ""
    if credentials.HasField("session_expires_at"):
        at = seconds(credentials.session_expires_at)
        ends = f" The session ends {relative(at, time.time())} at the latest, at {local_time(at)}."
    invocation.output.line(f"Signed in as {subject}.{ends}")
    invocation.output.pairs(
        [("For", join(credentials.audiences)), ("Scopes", join(credentials.scopes)), ("Kept in", str(path))]
    )
