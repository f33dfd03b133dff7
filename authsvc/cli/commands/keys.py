"""`credmesh keys`, `rotate-keys` and `revoke-key`."""

from __future__ import annotations

import time

import click

from authsvc.cli.failure import Failure
from authsvc.cli.mesh.connection import DEADLINE_EXCEEDED
from authsvc.cli.options import Invocation, MeshCommand, pass_invocation
from authsvc.cli.receipts import ask_to_wait, exit_by, show_receipt, wait_options
from authsvc.cli.rotation_progress import watch_rotation
from authsvc.cli.terminal.output import Cell, Column, join
from authsvc.cli.terminal.times import moment
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc

__all__ = ["keys", "revoke_key", "rotate_keys"]

_COLUMNS = (
    Column("Key", whole=True),
    Column("State", width=8),
    Column("Algorithm", width=9),
    Column("Made", width=10, wide=True),
    Column("Signs since", width=11),
    Column("Retired", width=10, wide=True),
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
_NAMES = {number: name for name, number in _ALGORITHMS.items()}


@click.command("keys", cls=MeshCommand)
@pass_invocation
def keys(invocation: Invocation) -> None:
    """List the signing keys, oldest first, and where each is in its life.

    PREPARED: held by the nodes, not signing yet. ACTIVE: signing. RETIRING: not signing any more; what it signed is
    accepted until the key is removed.
    """
    with invocation.connect() as auth:
        stub = keys_pb2_grpc.KeyServiceStub(auth.channel)
        answer = auth.every_page(stub.ListKeys, keys_pb2.ListKeysRequest())
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        _show(invocation, list(answer.keys))


@click.command("rotate-keys", cls=MeshCommand)
@click.option(
    "--algorithm",
    type=click.Choice(list(filter(None, _ALGORITHMS))),
    help="Of the new key.  [default: the mesh's]",
)
@click.option("--wait/--no-wait", default=True, help="Return when the new key signs, or at once.  [default: wait]")
@click.option("--watch", is_flag=True, help="Tell step by step what happens, until the new key signs.")
@pass_invocation
def rotate_keys(invocation: Invocation, algorithm: str | None, wait: bool, watch: bool) -> None:
    """Replace the signing key.

    The new key signs as soon as every live node holds it; the old one goes on verifying what it signed. No call is
    refused. A rotation that is under way is joined.
    """
    if watch:
        watch_rotation(invocation, keys_pb2.RotateKeysRequest(algorithm=_ALGORITHMS[algorithm or ""]))
        return
    request = keys_pb2.RotateKeysRequest(algorithm=_ALGORITHMS[algorithm or ""], wait=wait)
    with invocation.connect() as auth:
        stub = keys_pb2_grpc.KeyServiceStub(auth.channel)
        try:
            answer = auth.call(stub.RotateKeys, request)
        except Failure as failure:
            if not wait or failure.reason != DEADLINE_EXCEEDED:
                raise
            raise Failure(
                f"the new key does not sign yet after {invocation.timeout:g} s; the rotation goes on all the same",
                next_step="`credmesh keys` shows the nodes that it waits for.",
                reason=DEADLINE_EXCEEDED,
            ) from None
    if invocation.as_json:
        invocation.output.message(answer)
    elif answer.HasField("key"):
        _show(invocation, [answer.key])
    else:
        invocation.output.line("Asked for a new key; the leader has not taken it up yet. `credmesh keys` shows it.")


@click.command("revoke-key", cls=MeshCommand)
@click.argument("kid")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit trail.")
@wait_options
@pass_invocation
def revoke_key(invocation: Invocation, kid: str, reason: str, wait: bool, at_most: float | None) -> None:
    """Remove the signing key KID at once, as when it may have leaked.

    What it signed is refused from now on. Clients renew by their refresh tokens: nobody has to sign in again. With
    --wait the nodes confirm it: the answer is a receipt.
    """
    request = keys_pb2.RevokeKeyRequest(kid=kid, reason=reason)
    ask_to_wait(request, wait=wait, at_most=at_most)
    with invocation.connect() as auth:
        stub = keys_pb2_grpc.KeyServiceStub(auth.channel)
        answer = auth.call(stub.RevokeKey, request, timeout=invocation.patience if request.wait else None)
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        invocation.output.line(f"Revoked key {kid}: from revision {answer.revision} on nodes refuse what it signed.")
        if answer.HasField("receipt"):
            show_receipt(invocation.output, answer.receipt)
    if answer.HasField("receipt"):
        exit_by(answer.receipt)


def _show(invocation: Invocation, found: list[keys_pb2.Key]) -> None:
    now = time.time()
    invocation.output.table(
        _COLUMNS, [_row(key, now) for key in found], empty="There is no key yet: is an auth replica running?"
    )


def _row(key: keys_pb2.Key, now: float) -> list[Cell | str]:
    state = keys_pb2.KeyState.Name(key.state).removeprefix("KEY_STATE_")
    times = (
        moment(seconds(getattr(key, name)) if key.HasField(name) else None, now)
        for name in ("prepared_at", "activated_at", "retired_at", "removed_at")
    )
    algorithm = _NAMES.get(key.algorithm, "?")
    return [Cell(key.kid), Cell(state, _STYLES.get(state, "")), algorithm, *times, join(key.waiting_for)]
