"""Receipts of revocations: the options --wait and --at-most, and a receipt as text for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import click
from google.protobuf.duration_pb2 import Duration

from authsvc.cli.failure import ExitCode
from authsvc.cli.terminal.output import Cell, Column, Output
from authsvc.cli.terminal.times import clock_time, span
from authsvc.store.timestamps import duration, seconds
from credmesh.admin.v1 import receipt_pb2

__all__ = ["exit_if_incomplete", "set_wait", "show_receipt", "wait_options"]

F = TypeVar("F", bound=Callable[..., Any])

_APPLIED: Final = receipt_pb2.NodeReceipt.STATE_APPLIED

_COLUMNS: Final = (
    Column("Node", whole=True),
    Column("Service", width=10),
    Column("Address", width=15, optional=1),
    Column("Applied", width=9),
    Column("Streams ended", width=7),
    Column("Freshness", width=9),
)


class _WaitingRequest(Protocol):
    wait: bool

    @property
    def wait_at_most(self) -> Duration: ...


def wait_options(command: F) -> F:
    """Adds --wait and --at-most to a command, as the parameters `wait` and `at_most`."""
    at_most = click.option(
        "--at-most",
        type=click.FloatRange(min=0.001, max=3600),
        metavar="SECONDS",
        help="With --wait: return after this time at the latest, with what is known by then.",
    )
    wait = click.option(
        "--wait",
        is_flag=True,
        help="Return when every node has applied it, or must refuse it on strict methods. Exit code 1 if a node lags, "
        "or if the list of nodes is not known.",
    )
    return wait(at_most(command))


def set_wait(request: _WaitingRequest, *, wait: bool, at_most: float | None) -> None:
    """Writes the options into a request."""
    request.wait = wait or at_most is not None
    if at_most is not None:
        request.wait_at_most.CopyFrom(duration(at_most))


def show_receipt(output: Output, receipt: receipt_pb2.Receipt) -> None:
    """Prints a receipt for people."""
    output.table(_COLUMNS, [_row(node) for node in receipt.nodes], empty="No registered node is known.")
    applied = [node for node in receipt.nodes if node.state == _APPLIED]
    lagging = [node.node_id for node in receipt.nodes if node.state != _APPLIED and not node.lease_ended]
    # Incomplete although no listed node lags: the list of nodes could not be read after the commit.
    list_incomplete = not receipt.complete and not lagging
    if applied:
        slowest = max(_seconds(node.applied_after) for node in applied)
        every = "Every node above" if list_incomplete else "Every node"
        who = every if len(applied) == len(receipt.nodes) else f"{len(applied)} of {len(receipt.nodes)} nodes"
        ended = receipt.streams_ended
        streams = f"{ended:,} open stream{' was' if ended == 1 else 's were'} ended" if ended else "no stream was open"
        output.line(f"{who} applied it within {_milliseconds(slowest)}; {streams}.")
    left = _seconds(receipt.strict_in)
    since = clock_time(seconds(receipt.strict_from))
    begins = f"From {since} (in {span(left)})" if left > 0 else f"Since {since}"
    output.line(f"{begins} every other node refuses it too on methods with a freshness rule, reachable or not.")
    if lagging:
        output.line(
            f"No answer from {' '.join(lagging)}. Methods without a freshness rule may accept it there until the "
            "tokens expire. `credmesh nodes --probe` shows whether a node answers again.",
            "yellow",
        )
    elif list_incomplete:
        output.line(
            "The list of nodes could not be read in time, so nodes may be missing above. On a missing node, methods "
            "without a freshness rule accept it until the node learns of it. `credmesh nodes --probe` lists the nodes; "
            "--at-most or --timeout allows a receipt more time.",
            "yellow",
        )


def exit_if_incomplete(receipt: receipt_pb2.Receipt) -> None:
    """Ends the command with exit code 1 if a registered node lags, or if the receipt may lack a node."""
    if not receipt.complete:
        raise click.exceptions.Exit(int(ExitCode.FAILED))


def _row(node: receipt_pb2.NodeReceipt) -> list[Cell | str]:
    row: list[Cell | str] = [node.node_id, Cell(node.service or "-", "bold"), node.address or "-"]
    if node.state != _APPLIED:
        return [*row, Cell("gone", "yellow") if node.lease_ended else Cell("lags", "bold red"), "-", "-"]
    age = _milliseconds(_seconds(node.freshness_age)) if node.HasField("freshness_age") else "-"
    return [*row, Cell(_milliseconds(_seconds(node.applied_after)), "green"), str(node.streams_ended), age]


def _seconds(length: Duration) -> float:
    return length.ToNanoseconds() / 1e9


def _milliseconds(length: float) -> str:
    return f"{length * 1000:.1f} ms" if length < 1 else f"{length:.2f} s"
