"""`credmesh history`."""

from __future__ import annotations

import time

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
    Column("What gave it away", width=30),
    Column("Noticed by", width=12, whole=True),
)
_RECENT = 7 * 86_400.0


@click.command("history", cls=MeshCommand)
@pass_invocation
def history(invocation: Invocation) -> None:
    """Tell whether etcd was ever restored from a backup, and what was done about it.

    An etcd that is restored has forgotten what was revoked after the backup. The mesh answers that by itself: all
    signing keys are replaced, every session ends, and everybody signs in again.
    """
    with invocation.connect() as auth:
        stub = history_pb2_grpc.HistoryServiceStub(auth.channel)
        answer = auth.call(stub.GetHistory, history_pb2.GetHistoryRequest())
    if invocation.as_json:
        invocation.output.message(answer)
        return
    if not answer.HasField("history"):
        invocation.output.line("No history was begun yet: is an auth replica of this version running?")
        return
    now = time.time()
    current = answer.history
    pairs = [
        ("history", current.history_id),
        ("began", moment(seconds(current.began_at), now)),
        ("etcd cluster", current.cluster_id),
    ]
    if current.HasField("vouched_at"):
        pairs.append(("last vouched for", moment(seconds(current.vouched_at), now)))
    invocation.output.pairs(pairs)
    invocation.output.line()
    invocation.output.table(_COLUMNS, [_row(one, now) for one in answer.lost], empty="etcd has lost nothing.")
    if answer.lost and now - seconds(answer.lost[0].answered_at) < _RECENT:
        _explain(invocation, answer.lost[0])


def _row(lost: history_pb2.LostHistory, now: float) -> list[Cell | str]:
    return [
        Cell(moment(seconds(lost.answered_at) if lost.HasField("answered_at") else None, now), "bold red"),
        lost.history_id,
        str(lost.highest_revision or "-"),
        str(lost.answered_revision or "-"),
        lost.reason or "-",
        lost.noticed_by or "-",
    ]


def _explain(invocation: Invocation, lost: history_pb2.LostHistory) -> None:
    invocation.output.line()
    for line in (
        f"Since {local_time(seconds(lost.answered_at))} nothing counts that was issued before: signing keys were "
        "replaced, sessions ended.",
        "Users and clients are as of the backup. Do again what was done to them after it: users deleted or added, "
        "passwords set, clients deleted.",
        "The audit trail (user.create, user.delete, user.password, client.create, client.delete) tells what that was.",
    ):
        invocation.output.line(line)
