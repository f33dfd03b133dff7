"""`credmesh user …`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from authsvc.cli.accounts import (
    account_columns,
    account_row,
    account_service,
    audience_option,
    no_audience_note,
    scope_option,
    show_revocation,
    show_update,
    update_mask,
    update_options,
    yes_option,
)
from authsvc.cli.options import Invocation, MeshGroup, confirm, pass_invocation
from authsvc.cli.terminal.secrets import PASSWORD_VARIABLE, read_new_password
from credmesh.admin.v1 import accounts_pb2

__all__ = ["user"]

_password_file_option = click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help=f"Read the password from a file, or `-` for stdin.  [default: {PASSWORD_VARIABLE}, else a prompt]",
)


@click.group("user", cls=MeshGroup)
def user() -> None:
    """Add, list, change and delete users. A user signs in with a password."""


@user.command("add")
@click.argument("subject")
@scope_option
@audience_option
@_password_file_option
@pass_invocation
def user_add(
    invocation: Invocation,
    subject: str,
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    password_file: Path | None,
) -> None:
    """Make the user SUBJECT.

    Without an audience the user cannot sign in: no service would accept the credential. These commands need the
    audience credmesh.auth. Without scopes the user may call only methods that need none.
    """
    request = accounts_pb2.CreateUserRequest(
        user=accounts_pb2.User(subject=subject, scopes=scopes, audiences=audiences),
        password=read_new_password(password_file, f"Password for {subject}"),
    )
    with invocation.connect() as auth:
        response = auth.call(account_service(auth).CreateUser, request)
    if invocation.as_json:
        invocation.output.message(response)
    else:
        note = f"Sign in: credmesh login {subject}" if response.user.audiences else no_audience_note("user", subject)
        invocation.output.line(f"Made user {subject}. {note}")


@user.command("list")
@pass_invocation
def user_list(invocation: Invocation) -> None:
    """List the users, with the most that each may do."""
    with invocation.connect() as auth:
        response = auth.every_page(account_service(auth).ListUsers, accounts_pb2.ListUsersRequest())
    if invocation.as_json:
        invocation.output.message(response)
        return
    now = time.time()
    rows = [account_row(account.subject, account, now) for account in response.users]
    invocation.output.table(account_columns("Subject"), rows, empty="There is no user: credmesh user add SUBJECT")


@user.command("update")
@click.argument("subject")
@update_options
@pass_invocation
def user_update(
    invocation: Invocation,
    subject: str,
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    no_scopes: bool,
    no_audiences: bool,
) -> None:
    """Replace the scopes or the audiences of the user SUBJECT. What is not given stays.

    If that takes something away, the user's credentials are revoked, and the user has to sign in again.
    """
    request = accounts_pb2.UpdateUserRequest(
        user=accounts_pb2.User(subject=subject, scopes=scopes, audiences=audiences),
        update_mask=update_mask(scopes, audiences, no_scopes=no_scopes, no_audiences=no_audiences),
    )
    with invocation.connect() as auth:
        response = auth.call(account_service(auth).UpdateUser, request)
    show_update(invocation, response, "user", subject, response.user)


@user.command("passwd")
@click.argument("subject")
@_password_file_option
@pass_invocation
def user_passwd(invocation: Invocation, subject: str, password_file: Path | None) -> None:
    """Set the password of the user SUBJECT, and revoke the user's credentials."""
    password = read_new_password(password_file, f"New password for {subject}")
    request = accounts_pb2.SetPasswordRequest(subject=subject, password=password)
    with invocation.connect() as auth:
        response = auth.call(account_service(auth).SetPassword, request)
    show_revocation(
        invocation, response, f"Set the password of {subject}", "the user's earlier credentials", response.revision
    )


@user.command("delete")
@click.argument("subject")
@yes_option
@pass_invocation
def user_delete(invocation: Invocation, subject: str, yes: bool) -> None:
    """Delete the user SUBJECT, and revoke the user's credentials."""
    confirm(f"Delete user {subject}?", yes=yes)
    with invocation.connect() as auth:
        response = auth.call(account_service(auth).DeleteUser, accounts_pb2.DeleteUserRequest(subject=subject))
    show_revocation(invocation, response, f"Deleted user {subject}", "its credentials", response.revision)
