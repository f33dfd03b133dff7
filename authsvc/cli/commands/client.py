"""`credmesh client …`."""

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
    secret_file_option,
    show_revocation,
    show_update,
    update_mask,
    update_options,
    yes_option,
)
from authsvc.cli.options import Invocation, MeshGroup, confirm, pass_invocation
from authsvc.cli.terminal.output import Column, join
from authsvc.cli.terminal.secrets import create_secret_file
from credmesh.admin.v1 import accounts_pb2

__all__ = ["client"]


@click.group("client", cls=MeshGroup)
def client() -> None:
    """Add, list, change and delete clients. A client is a program that signs in with a secret."""


@client.command("add")
@click.argument("client_id")
@scope_option
@audience_option
@secret_file_option
@pass_invocation
def client_add(
    invocation: Invocation,
    client_id: str,
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    secret_file: Path | None,
) -> None:
    """Make the client CLIENT_ID and its secret. The secret is shown only once.

    Without an audience the client cannot sign in: no service would accept its credential. Without scopes it may call
    only methods that need none.
    """
    account = accounts_pb2.Client(client_id=client_id, scopes=scopes, audiences=audiences)
    with invocation.connect() as auth, create_secret_file(secret_file) as write:
        response = auth.call(account_service(auth).CreateClient, accounts_pb2.CreateClientRequest(client=account))
        write(response.client_secret)
    _show_secret(invocation, response, secret_file, f"Made client {client_id}.")
    if not audiences:
        invocation.output.note(no_audience_note("client", client_id))


@client.command("add-secret")
@click.argument("client_id")
@secret_file_option
@pass_invocation
def client_add_secret(invocation: Invocation, client_id: str, secret_file: Path | None) -> None:
    """Make a second secret for the client CLIENT_ID. Both are valid; the new one is shown only once.

    To replace a secret without an outage: add one, let the client use it, then `credmesh client remove-secret`.
    """
    request = accounts_pb2.AddClientSecretRequest(client_id=client_id)
    with invocation.connect() as auth, create_secret_file(secret_file) as write:
        response = auth.call(account_service(auth).AddClientSecret, request)
        write(response.client_secret)
    ids = " and ".join(secret.secret_id for secret in response.client.secrets)
    _show_secret(invocation, response, secret_file, f"Client {client_id} now has the secrets {ids}; the last is new.")


@client.command("remove-secret")
@click.argument("client_id")
@click.argument("secret_id")
@yes_option
@pass_invocation
def client_remove_secret(invocation: Invocation, client_id: str, secret_id: str, yes: bool) -> None:
    """Remove the secret SECRET_ID, as `credmesh client list` shows it, and revoke the client's credentials."""
    confirm(f"Remove the secret {secret_id} of client {client_id}?", yes=yes)
    request = accounts_pb2.RemoveClientSecretRequest(client_id=client_id, secret_id=secret_id)
    with invocation.connect() as auth:
        response = auth.call(account_service(auth).RemoveClientSecret, request)
    done = f"Removed the secret {secret_id} of client {client_id}"
    show_revocation(invocation, response, done, "the client's earlier credentials", response.revision)


@client.command("list")
@pass_invocation
def client_list(invocation: Invocation) -> None:
    """List the clients, with the most that each may do."""
    with invocation.connect() as auth:
        response = auth.every_page(account_service(auth).ListClients, accounts_pb2.ListClientsRequest())
    if invocation.as_json:
        invocation.output.message(response)
        return
    now = time.time()
    rows = [
        [*account_row(account.client_id, account, now), join(secret.secret_id for secret in account.secrets)]
        for account in response.clients
    ]
    invocation.output.table(
        (*account_columns("Client"), Column("Secrets", optional=1)),
        rows,
        empty="There is no client: credmesh client add CLIENT_ID",
    )


@client.command("update")
@click.argument("client_id")
@update_options
@pass_invocation
def client_update(
    invocation: Invocation,
    client_id: str,
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    no_scopes: bool,
    no_audiences: bool,
) -> None:
    """Replace the scopes or the audiences of the client CLIENT_ID. What is not given stays.

    If that takes something away, the client's credentials are revoked. The client asks for its next token by itself.
    """
    request = accounts_pb2.UpdateClientRequest(
        client=accounts_pb2.Client(client_id=client_id, scopes=scopes, audiences=audiences),
        update_mask=update_mask(scopes, audiences, no_scopes=no_scopes, no_audiences=no_audiences),
    )
    with invocation.connect() as auth:
        response = auth.call(account_service(auth).UpdateClient, request)
    show_update(invocation, response, "client", client_id, response.client)


@client.command("delete")
@click.argument("client_id")
@yes_option
@pass_invocation
def client_delete(invocation: Invocation, client_id: str, yes: bool) -> None:
    """Delete the client CLIENT_ID, and revoke its credentials."""
    confirm(f"Delete client {client_id}?", yes=yes)
    with invocation.connect() as auth:
        response = auth.call(account_service(auth).DeleteClient, accounts_pb2.DeleteClientRequest(client_id=client_id))
    show_revocation(invocation, response, f"Deleted client {client_id}", "its credentials", response.revision)


def _show_secret(
    invocation: Invocation,
    response: accounts_pb2.CreateClientResponse | accounts_pb2.AddClientSecretResponse,
    secret_file: Path | None,
    done: str,
) -> None:
    """Prints the answer. Without a file the secret goes to stdout, alone on its line."""
    if secret_file is not None:
        response.ClearField("client_secret")
    if invocation.as_json:
        invocation.output.message(response)
    elif secret_file is not None:
        invocation.output.line(f"{done} The secret is in {secret_file}.")
    else:
        invocation.output.line(response.client_secret)
        invocation.output.note(f"{done} This is its secret; it is shown only once.")
