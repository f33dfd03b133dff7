"""`credmesh user …` and `credmesh client …`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from google.protobuf.field_mask_pb2 import FieldMask

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.options import Invocation, MeshGroup, confirm, pass_invocation
from authsvc.cli.terminal.output import Cell, Column, join
from authsvc.cli.terminal.secrets import PASSWORD_VARIABLE, new_password, write_secret
from authsvc.cli.terminal.times import moment
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import accounts_pb2, accounts_pb2_grpc

__all__ = ["client", "user"]

F = TypeVar("F", bound=Callable[..., Any])

_SCOPE_HELP = "What it may do; repeat for more."
_AUDIENCE_HELP = "A service that its credentials are for; repeat for more."
_YES_HELP = "Do not ask first."
_PASSWORD_HELP = (
    f"Read the password from a file, or `-` for stdin.  [default: {PASSWORD_VARIABLE}, else it is asked for]"
)

_password_file = click.option(
    "--password-file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), help=_PASSWORD_HELP
)
_scopes = click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help=_SCOPE_HELP)
_audiences = click.option("--audience", "audiences", multiple=True, metavar="NAME", help=_AUDIENCE_HELP)
_secret_file = click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the secret to a new file that only you may read, instead of showing it.",
)
_yes = click.option("--yes", is_flag=True, help=_YES_HELP)


def _changes(command: F) -> F:
    """The options of a command that changes an account."""
    command = click.option("--no-audiences", is_flag=True, help="It cannot sign in: no service takes it.")(command)
    command = click.option("--no-scopes", is_flag=True, help="It may do nothing.")(command)
    return _scopes(_audiences(command))


@click.group("user", cls=MeshGroup)
def user() -> None:
    """Add, list, change and delete users, who sign in with a password."""


@click.group("client", cls=MeshGroup)
def client() -> None:
    """Add, list, change and delete clients: programs that sign in with a secret."""


@user.command("add")
@click.argument("subject")
@_scopes
@_audiences
@_password_file
@pass_invocation
def user_add(
    invocation: Invocation,
    subject: str,
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    password_file: Path | None,
) -> None:
    """Make the user SUBJECT.

    Without an audience it cannot sign in, since no service would take its credential; these commands take one for
    credmesh.auth. Without scopes it may do only what asks for none.
    """
    request = accounts_pb2.CreateUserRequest(
        user=accounts_pb2.User(subject=subject, scopes=scopes, audiences=audiences),
        password=new_password(password_file, f"Password for {subject}"),
    )
    with invocation.connect() as auth:
        answer = auth.call(accounts_pb2_grpc.AccountServiceStub(auth.channel).CreateUser, request)
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        how = f"Sign in: credmesh login {subject}" if answer.user.audiences else _cannot_sign_in("user", subject)
        invocation.output.line(f"Made user {subject}. {how}")


@user.command("list")
@pass_invocation
def user_list(invocation: Invocation) -> None:
    """List the users and what each may do at most."""
    with invocation.connect() as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.every_page(stub.ListUsers, accounts_pb2.ListUsersRequest())
    if invocation.as_json:
        invocation.output.message(answer)
        return
    rows = [_row(one.subject, one, time.time()) for one in answer.users]
    invocation.output.table(_columns("Subject"), rows, empty="There is no user: credmesh user add SUBJECT")


@user.command("update")
@click.argument("subject")
@_changes
@pass_invocation
def user_update(
    invocation: Invocation,
    subject: str,
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    no_scopes: bool,
    no_audiences: bool,
) -> None:
    """Set what the user SUBJECT may do and where, in place of what it was; what is not given stays.

    If that takes something away, everything that was issued to the user is revoked: it has to sign in again.
    """
    mask = _mask(scopes, audiences, no_scopes=no_scopes, no_audiences=no_audiences)
    changed = accounts_pb2.User(subject=subject, scopes=scopes, audiences=audiences)
    with invocation.connect() as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.call(stub.UpdateUser, accounts_pb2.UpdateUserRequest(user=changed, update_mask=mask))
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        _tell_update(invocation, "user", subject, answer.user, answer.revision)


@user.command("passwd")
@click.argument("subject")
@_password_file
@pass_invocation
def user_passwd(invocation: Invocation, subject: str, password_file: Path | None) -> None:
    """Set the password of the user SUBJECT, and revoke everything that was issued with the old one."""
    password = new_password(password_file, f"New password for {subject}")
    with invocation.connect() as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.call(stub.SetPassword, accounts_pb2.SetPasswordRequest(subject=subject, password=password))
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        invocation.output.line(
            f"Set the password of {subject}: from revision {answer.revision} on nodes refuse what was issued before."
        )


@user.command("delete")
@click.argument("subject")
@_yes
@pass_invocation
def user_delete(invocation: Invocation, subject: str, yes: bool) -> None:
    """Delete the user SUBJECT, and revoke everything that was issued to the user."""
    confirm(f"Delete user {subject}?", yes=yes)
    with invocation.connect() as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.call(stub.DeleteUser, accounts_pb2.DeleteUserRequest(subject=subject))
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        invocation.output.line(
            f"Deleted user {subject}: from revision {answer.revision} on nodes refuse what was issued to it."
        )


@client.command("add")
@click.argument("client_id")
@_scopes
@_audiences
@_secret_file
@pass_invocation
def client_add(
    invocation: Invocation,
    client_id: str,
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    secret_file: Path | None,
) -> None:
    """Make the client CLIENT_ID and its secret, which is shown this once.

    Without an audience it cannot sign in, since no service would take its credential. Without scopes it may do only
    what asks for none.
    """
    new = accounts_pb2.Client(client_id=client_id, scopes=scopes, audiences=audiences)
    with invocation.connect() as auth, write_secret(secret_file) as keep:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.call(stub.CreateClient, accounts_pb2.CreateClientRequest(client=new))
        keep(answer.client_secret)
    _tell_secret(invocation, answer, secret_file, f"Made client {client_id}.")
    if not audiences:
        invocation.output.note(_cannot_sign_in("client", client_id))


@client.command("add-secret")
@click.argument("client_id")
@_secret_file
@pass_invocation
def client_add_secret(invocation: Invocation, client_id: str, secret_file: Path | None) -> None:
    """Make a second secret for the client CLIENT_ID, good beside the first, and shown this once.

    So a secret is replaced without an outage: add one, have the client use it, then `credmesh client remove-secret`.
    """
    with invocation.connect() as auth, write_secret(secret_file) as keep:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.call(stub.AddClientSecret, accounts_pb2.AddClientSecretRequest(client_id=client_id))
        keep(answer.client_secret)
    secrets = " and ".join(one.secret_id for one in answer.client.secrets)
    _tell_secret(invocation, answer, secret_file, f"Client {client_id} has the secrets {secrets} now; the last is new.")


@client.command("remove-secret")
@click.argument("client_id")
@click.argument("secret_id")
@_yes
@pass_invocation
def client_remove_secret(invocation: Invocation, client_id: str, secret_id: str, yes: bool) -> None:
    """Remove the secret SECRET_ID, as `credmesh client list` shows it, and revoke what was issued to the client."""
    confirm(f"Remove the secret {secret_id} of client {client_id}?", yes=yes)
    request = accounts_pb2.RemoveClientSecretRequest(client_id=client_id, secret_id=secret_id)
    with invocation.connect() as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.call(stub.RemoveClientSecret, request)
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        invocation.output.line(
            f"Removed the secret {secret_id} of client {client_id}: from revision {answer.revision} on nodes refuse "
            "what was issued to it before."
        )


@client.command("list")
@pass_invocation
def client_list(invocation: Invocation) -> None:
    """List the clients and what each may do at most."""
    with invocation.connect() as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.every_page(stub.ListClients, accounts_pb2.ListClientsRequest())
    if invocation.as_json:
        invocation.output.message(answer)
        return
    rows = [
        [*_row(one.client_id, one, time.time()), join(secret.secret_id for secret in one.secrets)]
        for one in answer.clients
    ]
    invocation.output.table(
        (*_columns("Client"), Column("Secrets", wide=True)),
        rows,
        empty="There is no client: credmesh client add CLIENT_ID",
    )


@client.command("update")
@click.argument("client_id")
@_changes
@pass_invocation
def client_update(
    invocation: Invocation,
    client_id: str,
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    no_scopes: bool,
    no_audiences: bool,
) -> None:
    """Set what the client CLIENT_ID may do and where, in place of what it was; what is not given stays.

    If that takes something away, everything that was issued to it is revoked: it asks for its next token by itself.
    """
    mask = _mask(scopes, audiences, no_scopes=no_scopes, no_audiences=no_audiences)
    changed = accounts_pb2.Client(client_id=client_id, scopes=scopes, audiences=audiences)
    with invocation.connect() as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.call(stub.UpdateClient, accounts_pb2.UpdateClientRequest(client=changed, update_mask=mask))
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        _tell_update(invocation, "client", client_id, answer.client, answer.revision)


@client.command("delete")
@click.argument("client_id")
@_yes
@pass_invocation
def client_delete(invocation: Invocation, client_id: str, yes: bool) -> None:
    """Delete the client CLIENT_ID, and revoke everything that was issued to it."""
    confirm(f"Delete client {client_id}?", yes=yes)
    with invocation.connect() as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.call(stub.DeleteClient, accounts_pb2.DeleteClientRequest(client_id=client_id))
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        invocation.output.line(
            f"Deleted client {client_id}: from revision {answer.revision} on nodes refuse what was issued to it."
        )


def _mask(scopes: tuple[str, ...], audiences: tuple[str, ...], *, no_scopes: bool, no_audiences: bool) -> FieldMask:
    """Which of an account's fields the options set. Failure if they set none, or say two things of one."""
    if (scopes and no_scopes) or (audiences and no_audiences):
        raise Failure("--no-scopes goes without --scope, and --no-audiences without --audience", code=ExitCode.USAGE)
    paths = ["scopes"] * bool(scopes or no_scopes) + ["audiences"] * bool(audiences or no_audiences)
    if not paths:
        raise Failure(
            "there is nothing to change",
            next_step="Say all that it may do with --scope (or --no-scopes), and where with --audience.",
            code=ExitCode.USAGE,
        )
    return FieldMask(paths=paths)


def _tell_secret(
    invocation: Invocation,
    answer: accounts_pb2.CreateClientResponse | accounts_pb2.AddClientSecretResponse,
    secret_file: Path | None,
    what: str,
) -> None:
    if secret_file is not None:
        answer.ClearField("client_secret")
    if invocation.as_json:
        invocation.output.message(answer)
    elif secret_file is not None:
        invocation.output.line(f"{what} The secret is in {secret_file}.")
    else:
        invocation.output.line(answer.client_secret)
        invocation.output.note(f"{what} This is the secret, shown this once.")


def _tell_update(
    invocation: Invocation, kind: str, name: str, account: accounts_pb2.User | accounts_pb2.Client, revision: int
) -> None:
    invocation.output.line(
        f"Changed {kind} {name}. Scopes: {join(account.scopes)}  Audiences: {join(account.audiences)}"
    )
    if revision:
        invocation.output.line(f"From revision {revision} on nodes refuse what was issued to it before.")
    if not account.audiences:
        invocation.output.line(_cannot_sign_in(kind, name))


def _cannot_sign_in(kind: str, name: str) -> str:
    return f"It has no audience, so it cannot sign in. Give it one: credmesh {kind} update {name} --audience NAME"


def _columns(title: str) -> tuple[Column, ...]:
    return (Column(title, width=16, whole=True), Column("Made", width=12), Column("Audiences"), Column("Scopes"))


def _row(name: str, account: accounts_pb2.User | accounts_pb2.Client, now: float) -> list[Cell | str]:
    made = moment(seconds(account.created_at) if account.HasField("created_at") else None, now)
    return [Cell(name, "bold"), made, join(account.audiences), join(account.scopes)]
