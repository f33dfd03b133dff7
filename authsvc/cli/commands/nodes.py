"""`credmesh nodes`."""

from __future__ import annotations

import time

import click

from authsvc.cli.failure import ExitCode
from authsvc.cli.options import Invocation, MeshCommand, pass_invocation
from authsvc.cli.terminal.output import Cell, Column
from authsvc.cli.terminal.times import moment
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import nodes_pb2, nodes_pb2_grpc

__all__ = ["nodes"]

_COLUMNS = (
    Column("Node", whole=True),
    Column("Service", width=10, wide=1),  # a node's id begins with it
    Column("Address", width=15, wide=4),
    Column("Version", width=7, wide=5),
    Column("RegisteredNode", width=12, wide=3),
)
_PROBE_COLUMNS = (
    Column("Answered", width=9, whole=True),
    Column("Freshness", width=9, whole=True),
    Column("Revision", width=8, whole=True, wide=2),
)


@click.command("nodes", cls=MeshCommand)
@click.option(
    "--probe/--no-probe",
    default=None,
    help="Ask each to answer first, or none. With --probe the exit code is 1 if one does not answer within 2 s.",
)
@pass_invocation
def nodes(invocation: Invocation, probe: bool | None) -> None:
    """List the nodes: the processes that verify credentials.

    Each is asked to answer. FRESHNESS is how old its knowledge of revocations could be at most just then: a measured
    bound, in which no wall clock takes part.
    """
    strictly, probe = bool(probe), probe is not False
    with invocation.connect() as auth:
        stub = nodes_pb2_grpc.NodeServiceStub(auth.channel)
        answer = auth.every_page(stub.ListNodes, nodes_pb2.ListNodesRequest(probe=probe))
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        now = time.time()
        columns = _COLUMNS + (_PROBE_COLUMNS if probe else ())
        rows = [_row(node, now, probe=probe) for node in answer.nodes]
        invocation.output.table(columns, rows, empty="No node is registered.")
    if strictly and not all(node.acknowledged for node in answer.nodes):
        raise click.exceptions.Exit(int(ExitCode.FAILED))


def _row(node: nodes_pb2.Node, now: float, *, probe: bool) -> list[Cell | str]:
    row: list[Cell | str] = [
        node.node_id,
        Cell(node.service, "bold"),
        node.address or "-",
        node.version or "-",
        moment(seconds(node.registered_at) if node.HasField("registered_at") else None, now),
    ]
    if probe and node.acknowledged:
        milliseconds = node.acknowledged_after.ToNanoseconds() / 1e6
        age = f"{node.freshness_age.ToNanoseconds() / 1e9:.2f} s" if node.HasField("freshness_age") else "-"
        row += [Cell(f"{milliseconds:.1f} ms", "green"), age, str(node.applied_revision)]
    elif probe:
        row += [Cell("lags", "bold red"), "-", "-"]
    return row
