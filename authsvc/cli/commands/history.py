"""`credmesh history`."""

from __future__ import annotations

import time
from typing import Final

import click

from authsvc.cli.options import Invocation, MeshCommand, pass_invocation
from authsvc.cli.terminal.output import Cell, Column
from authsvc.cli.terminal.times import local_time, moment
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import history_pb2, history_pb2_grpc

__all__ = ["history"]

_COLUMNS = (
    Column("Lost", width=16),
    Column("History", whole=True),
    Column("Revision", width=8, whole=True),
    Column("Restored to", width=11),
    Column("Evidence", width=30),
    Column("Noticed by", width=12, whole=True),
)
_RECENT_LOSS_SECONDS: Final = 7 * 86_400.0


@click.command("history", cls=MeshCommand)
@pass_invocation
def history(invocation: Invocation) -> None:
    """Show whether etcd has lost a part of its history, and how the mesh recovered.

    An etcd that is restored from a backup lacks the revocations after the backup. The mesh finds the loss and
    recovers by itself: all signing keys are replaced, every session ends, and every user has to sign in again.
    """
    with invocation.connect() as auth:
        stub = history_pb2_grpc.HistoryServiceStub(auth.channel)
        response = auth.call(stub.GetHistory, history_pb2.GetHistoryRequest())
    if invocation.as_json:
        invocation.output.message(response)
        return
    if not response.HasField("history"):
        invocation.output.line("etcd has no record of a history yet: is an auth replica of this version running?")
        return
    now = time.time()
    current = response.history
    pairs = [
        ("history", current.history_id),
        ("began", moment(seconds(current.began_at), now)),
        ("etcd cluster", current.cluster_id),
    ]
    if current.HasField("vouched_at"):
        pairs.append(("last vouched for", moment(seconds(current.vouched_at), now)))
    invocation.output.pairs(pairs)
    invocation.output.line()
    invocation.output.table(_COLUMNS, [_row(loss, now) for loss in response.lost], empty="etcd has lost nothing.")
    if response.lost and now - seconds(response.lost[0].answered_at) < _RECENT_LOSS_SECONDS:
        _show_next_steps(invocation, response.lost[0])


def _row(loss: history_pb2.LostHistory, now: float) -> list[Cell | str]:
    return [
        Cell(moment(seconds(loss.answered_at) if loss.HasField("answered_at") else None, now), "bold red"),
        loss.history_id,
        str(loss.highest_revision or "-"),
        str(loss.answered_revision or "-"),
        loss.reason or "-",
        loss.noticed_by or "-",
    ]


def _show_next_steps(invocation: Invocation, loss: history_pb2.LostHistory) -> None:
    invocation.output.line()
    for line in (
        f"Nodes refuse every credential that was issued before {local_time(seconds(loss.answered_at))}: signing keys "
        "were replaced, and sessions ended.",
        "Users and clients are as they were in the backup. Repeat the later changes: users added or deleted, passwords "
        "set, clients added or deleted.",
        "The audit trail has these changes (user.create, user.delete, user.password, client.create, client.delete).",
    ):
        invocation.output.line(line)
