"""What `credmesh user` and `credmesh client` share: their options, and the text about an account."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.options import Invocation
from authsvc.cli.terminal.output import Cell, Column, join
from authsvc.cli.terminal.times import moment
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import accounts_pb2, accounts_pb2_grpc

__all__ = [
    "account_columns",
    "account_row",
    "account_service",
    "audience_option",
    "no_audience_note",
    "scope_option",
    "secret_file_option",
    "show_revocation",
    "show_update",
    "update_mask",
    "update_options",
    "yes_option",
]

F = TypeVar("F", bound=Callable[..., Any])
Account = accounts_pb2.User | accounts_pb2.Client

scope_option = click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE", help="A scope that it may use; repeat for more."
)
audience_option = click.option(
    "--audience",
    "audiences",
    multiple=True,
    metavar="NAME",
    help="A service that its credentials are for; repeat for more.",
)
secret_file_option = click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the secret to a new file that only you may read, instead of printing it.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def update_options(command: F) -> F:
    """Adds the options of a command that changes an account."""
    command = click.option("--no-audiences", is_flag=True, help="Remove all audiences: it cannot sign in.")(command)
    command = click.option("--no-scopes", is_flag=True, help="Remove all scopes.")(command)
    return scope_option(audience_option(command))


def account_service(auth: Connection) -> accounts_pb2_grpc.AccountServiceStub:
    """The stub of the service that manages accounts."""
    return accounts_pb2_grpc.AccountServiceStub(auth.channel)


def update_mask(
    scopes: tuple[str, ...], audiences: tuple[str, ...], *, no_scopes: bool, no_audiences: bool
) -> FieldMask:
    """The fields of an account that the options set. Failure if they set none, or contradict each other."""
    if (scopes and no_scopes) or (audiences and no_audiences):
        raise Failure(
            "--no-scopes cannot be combined with --scope, nor --no-audiences with --audience", code=ExitCode.USAGE
        )
    paths = ["scopes"] * bool(scopes or no_scopes) + ["audiences"] * bool(audiences or no_audiences)
    if not paths:
        raise Failure(
            "there is nothing to change: no option names a scope or an audience",
            next_step="Name all scopes with --scope (or --no-scopes), all audiences with --audience, or both.",
            code=ExitCode.USAGE,
        )
    return FieldMask(paths=paths)


def show_update(
    invocation: Invocation,
    response: accounts_pb2.UpdateUserResponse | accounts_pb2.UpdateClientResponse,
    kind: str,
    name: str,
    account: Account,
) -> None:
    """Prints the answer to a change of an account: what it may do now, and the revocation if there was one."""
    if invocation.as_json:
        invocation.output.message(response)
        return
    invocation.output.line(
        f"Changed {kind} {name}. Scopes: {join(account.scopes)}  Audiences: {join(account.audiences)}"
    )
    if response.revision:
        invocation.output.line(f"Nodes refuse its earlier credentials from revision {response.revision} on.")
    if not account.audiences:
        invocation.output.line(no_audience_note(kind, name))


def show_revocation(invocation: Invocation, response: Message, done: str, revoked: str, revision: int) -> None:
    """Prints the answer to a change that revokes credentials.

    done     what happened, e.g. "Deleted user alice"
    revoked  the credentials that are refused, e.g. "its credentials"
    """
    if invocation.as_json:
        invocation.output.message(response)
    else:
        invocation.output.line(f"{done}. Nodes refuse {revoked} from revision {revision} on.")


def no_audience_note(kind: str, name: str) -> str:
    """The note on an account without an audience. `kind` is "user" or "client"."""
    return f"It has no audience, so it cannot sign in. Add one: credmesh {kind} update {name} --audience NAME"


def account_columns(title: str) -> tuple[Column, ...]:
    """The columns of a list of accounts."""
    return (Column(title, width=16, whole=True), Column("Made", width=12), Column("Audiences"), Column("Scopes"))


def account_row(name: str, account: Account, now: float) -> list[Cell | str]:
    """An account's row in a list. `now` is in seconds since 1970."""
    made = moment(seconds(account.created_at) if account.HasField("created_at") else None, now)
    return [Cell(name, "bold"), made, join(account.audiences), join(account.scopes)]
