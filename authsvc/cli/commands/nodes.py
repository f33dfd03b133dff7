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
    Column("Service", width=10, optional=1),  # a node's id begins with its service
    Column("Address", width=15, optional=4),
    Column("Version", width=7, optional=5),
    Column("Registered", width=12, optional=3),
)
_PROBE_COLUMNS = (
    Column("Answered", width=9, whole=True),
    Column("Freshness", width=9, whole=True),
    Column("Revision", width=8, whole=True, optional=2),
)


@click.command("nodes", cls=MeshCommand)
@click.option(
    "--probe/--no-probe",
    default=None,
    help="Probe each node, or none. Only with --probe the exit code is 1 if a node does not answer within 2 s.  "
    "[default: probe]",
)
@pass_invocation
def nodes(invocation: Invocation, probe: bool | None) -> None:
    """List the nodes: the processes that verify credentials.

    A probe asks each node to answer. FRESHNESS is then the node's freshness: the greatest possible age of its knowledge
    of revocations. It is measured, and does not depend on a wall clock.
    """
    requires_answers, probe = bool(probe), probe is not False
    with invocation.connect() as auth:
        stub = nodes_pb2_grpc.NodeServiceStub(auth.channel)
        response = auth.every_page(stub.ListNodes, nodes_pb2.ListNodesRequest(probe=probe))
    if invocation.as_json:
        invocation.output.message(response)
    else:
        now = time.time()
        columns = _COLUMNS + (_PROBE_COLUMNS if probe else ())
        rows = [_row(node, now, probe=probe) for node in response.nodes]
        invocation.output.table(columns, rows, empty="No node is registered.")
    if requires_answers and not all(node.acknowledged for node in response.nodes):
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
