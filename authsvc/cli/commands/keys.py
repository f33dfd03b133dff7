"""`credmesh keys`, `rotate-keys` and `revoke-key`."""

from __future__ import annotations

import time

import click

from authsvc.cli.failure import Failure
from authsvc.cli.mesh.connection import DEADLINE_EXCEEDED
from authsvc.cli.options import Invocation, MeshCommand, pass_invocation
from authsvc.cli.receipts import exit_if_incomplete, set_wait, show_receipt, wait_options
from authsvc.cli.rotation_progress import rotation_outlasts_timeout, watch_rotation
from authsvc.cli.terminal.output import Cell, Column, join
from authsvc.cli.terminal.times import moment
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc

__all__ = ["keys", "revoke_key", "rotate_keys"]

_COLUMNS = (
    Column("Key", whole=True),
    Column("State", width=8),
    Column("Algorithm", width=9),
    Column("Made", width=10, optional=1),
    Column("Signs since", width=11),
    Column("Retired", width=10, optional=1),
    Column("Removed", width=10),
    Column("Waits for"),
)
_STYLES = {"ACTIVE": "bold green", "PREPARED": "yellow", "RETIRING": "dim"}
_ALGORITHMS = {
    "": keys_pb2.KEY_ALGORITHM_UNSPECIFIED,
    "EdDSA": keys_pb2.KEY_ALGORITHM_EDDSA,
    "ES256": keys_pb2.KEY_ALGORITHM_ES256,
    "RS256": keys_pb2.KEY_ALGORITHM_RS256,
}
_ALGORITHM_NAMES = {number: name for name, number in _ALGORITHMS.items()}


@click.command("keys", cls=MeshCommand)
@pass_invocation
def keys(invocation: Invocation) -> None:
    """List the signing keys, oldest first, with their states.

    PREPARED: distributed to the nodes, not signing yet. ACTIVE: signing. RETIRING: verifying only. Its tokens are
    accepted until the key is removed.
    """
    with invocation.connect() as auth:
        stub = keys_pb2_grpc.KeyServiceStub(auth.channel)
        response = auth.every_page(stub.ListKeys, keys_pb2.ListKeysRequest())
    if invocation.as_json:
        invocation.output.message(response)
    else:
        _show_keys(invocation, list(response.keys))


@click.command("rotate-keys", cls=MeshCommand)
@click.option(
    "--algorithm",
    type=click.Choice(list(filter(None, _ALGORITHMS))),
    help="The algorithm of the new key.  [default: the mesh's]",
)
@click.option("--wait/--no-wait", default=True, help="Return when the new key signs, or at once.  [default: wait]")
@click.option("--watch", is_flag=True, help="Show each step until the new key signs.")
@pass_invocation
def rotate_keys(invocation: Invocation, algorithm: str | None, wait: bool, watch: bool) -> None:
    """Replace the signing key.

    The new key signs when every registered node holds it. The old key still verifies the tokens that it signed, so no
    call is refused. If a rotation is already in progress, the command joins it.
    """
    if watch:
        watch_rotation(invocation, keys_pb2.RotateKeysRequest(algorithm=_ALGORITHMS[algorithm or ""]))
        return
    request = keys_pb2.RotateKeysRequest(algorithm=_ALGORITHMS[algorithm or ""], wait=wait)
    with invocation.connect() as auth:
        stub = keys_pb2_grpc.KeyServiceStub(auth.channel)
        try:
            response = auth.call(stub.RotateKeys, request)
        except Failure as failure:
            if not wait or failure.reason != DEADLINE_EXCEEDED:
                raise
            raise rotation_outlasts_timeout(invocation.timeout) from None
    if invocation.as_json:
        invocation.output.message(response)
    elif response.HasField("key"):
        _show_keys(invocation, [response.key])
    else:
        invocation.output.line("Asked for a new key. The leader has not made it yet; `credmesh keys` shows it.")


@click.command("revoke-key", cls=MeshCommand)
@click.argument("kid")
@click.option("--reason", default="", metavar="TEXT", help="The reason, for the audit trail.")
@wait_options
@pass_invocation
def revoke_key(invocation: Invocation, kid: str, reason: str, wait: bool, at_most: float | None) -> None:
    """Remove the signing key KID at once, for example because it may have leaked.

    Nodes refuse every token that the key signed. Clients renew by their refresh tokens, and no user has to sign in
    again. With --wait the answer is a receipt: it shows which nodes have applied the revocation.
    """
    request = keys_pb2.RevokeKeyRequest(kid=kid, reason=reason)
    set_wait(request, wait=wait, at_most=at_most)
    with invocation.connect() as auth:
        stub = keys_pb2_grpc.KeyServiceStub(auth.channel)
        timeout = invocation.call_timeout(waits_for_nodes=request.wait)
        response = auth.call(stub.RevokeKey, request, timeout=timeout)
    if invocation.as_json:
        invocation.output.message(response)
    else:
        invocation.output.line(f"Revoked key {kid}. Nodes refuse its tokens from revision {response.revision} on.")
        if response.HasField("receipt"):
            show_receipt(invocation.output, response.receipt)
    if response.HasField("receipt"):
        exit_if_incomplete(response.receipt)


def _show_keys(invocation: Invocation, listed: list[keys_pb2.Key]) -> None:
    now = time.time()
    invocation.output.table(
        _COLUMNS, [_row(key, now) for key in listed], empty="There is no key yet: is an auth replica running?"
    )


def _row(key: keys_pb2.Key, now: float) -> list[Cell | str]:
    state = keys_pb2.KeyState.Name(key.state).removeprefix("KEY_STATE_")
    times = (
        moment(seconds(getattr(key, name)) if key.HasField(name) else None, now)
        for name in ("prepared_at", "activated_at", "retired_at", "removed_at")
    )
    algorithm = _ALGORITHM_NAMES.get(key.algorithm, "?")
    return [Cell(key.kid), Cell(state, _STYLES.get(state, "")), algorithm, *times, join(key.waiting_for)]
