"""`credmesh sessions` and `kick`."""

from __future__ import annotations

import re
import time
from typing import Final

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.typo_warnings import subject_exists, unknown_subject_warning, warn
from authsvc.cli.options import Invocation, MeshCommand, pass_invocation
from authsvc.cli.receipts import exit_if_incomplete, set_wait, show_receipt, wait_options
from authsvc.cli.terminal.output import Cell, Column, as_data, join
from authsvc.cli.terminal.times import moment
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import sessions_pb2, sessions_pb2_grpc

__all__ = ["kick", "sessions"]

_COLUMNS = (
    Column("Session", width=22, whole=True),
    Column("Subject", width=10),
    Column("Client", width=8),
    Column("Kind", width=6, optional=1),
    Column("Begun", width=10, optional=1),
    Column("Last seen", width=10),
    Column("Times out", width=10),
    Column("Ends", width=10, optional=1),
    Column("Audiences", optional=1),
    Column("Scopes", optional=1),
)

_ID_LIKE_AN_OPTION: Final = re.compile(r"-[A-Za-z0-9_-]{21}")


@click.command("sessions", cls=MeshCommand)
@click.option("--subject", default="", metavar="NAME", help="Only the sessions of this subject.")
@click.option("--count", is_flag=True, help="Print only how many there are.")
@pass_invocation
def sessions(invocation: Invocation, subject: str, count: bool) -> None:
    """List the live sessions: the subject of each, and when it was last seen.

    If a subject has no session and no account has its name, a warning says so (in --json: `known` is false).
    """
    request = sessions_pb2.ListSessionsRequest(subject=subject, page_size=1)
    with invocation.connect() as auth:
        stub = sessions_pb2_grpc.SessionServiceStub(auth.channel)
        response = auth.call(stub.ListSessions, request) if count else auth.every_page(stub.ListSessions, request)
        known = subject_exists(auth, subject) if subject and not response.total_size else None
    if count:
        response = sessions_pb2.ListSessionsResponse(total_size=response.total_size)
    if invocation.as_json:
        invocation.output.data(as_data(response) | ({} if known is None else {"known": known}))
    elif count:
        invocation.output.line(str(response.total_size))
    else:
        now = time.time()
        empty = f"{subject} has no session." if subject else "There is no session."
        invocation.output.table(_COLUMNS, [_row(session, now) for session in response.sessions], empty=empty)
    if known is False and not invocation.as_json:
        warn(unknown_subject_warning(subject))


class _Kick(MeshCommand):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # A session id may begin with a dash, like an option. Behind "--" click does not take it for one.
        if "--" not in args:
            ids = [argument for argument in args if _ID_LIKE_AN_OPTION.fullmatch(argument)]
            args = [*(argument for argument in args if argument not in ids), "--", *ids]
        return super().parse_args(ctx, args)


@click.command("kick", cls=_Kick)
@click.argument("session_ids", metavar="SESSION_ID...", nargs=-1, required=True)
@click.option("--reason", default="", metavar="TEXT", help="The reason, for the audit trail.")
@wait_options
@pass_invocation
def kick(invocation: Invocation, session_ids: tuple[str, ...], reason: str, wait: bool, at_most: float | None) -> None:
    """End sessions by their ids, as `credmesh sessions` lists them.

    Every node refuses their credentials, and their open streams end. To end all sessions of a user: credmesh revoke
    --subject. With several ids --json prints one list of the sessions that were ended.
    """
    ended: list[tuple[str, sessions_pb2.KickSessionResponse]] = []
    missing: list[str] = []
    with invocation.connect() as auth:
        stub = sessions_pb2_grpc.SessionServiceStub(auth.channel)
        try:
            for session_id in session_ids:
                request = sessions_pb2.KickSessionRequest(session_id=session_id, reason=reason)
                set_wait(request, wait=wait, at_most=at_most)
                timeout = invocation.call_timeout(waits_for_nodes=request.wait)
                try:
                    response = auth.call(stub.KickSession, request, timeout=timeout)
                except Failure as failure:
                    if failure.exit_code != ExitCode.NOTHING:
                        raise
                    missing.append(session_id)
                    continue
                ended.append((session_id, response))
                if not invocation.as_json:
                    _show_ended(invocation, session_id, response)
        finally:
            # Even after a failure: a script must learn which sessions were ended before it.
            if invocation.as_json:
                _show_ended_as_json(invocation, ended, several=len(session_ids) > 1)
    if missing:
        raise Failure(
            f"no such session: {' '.join(missing)}",
            next_step="It may have ended already. `credmesh sessions` lists the live sessions.",
            code=ExitCode.NOTHING,
            reason="NOT_FOUND",
        )
    for _, response in ended:
        if response.HasField("receipt"):
            exit_if_incomplete(response.receipt)


def _show_ended(invocation: Invocation, session_id: str, response: sessions_pb2.KickSessionResponse) -> None:
    invocation.output.line(f"Ended session {session_id}. Nodes refuse it from revision {response.revision} on.")
    if response.HasField("receipt"):
        show_receipt(invocation.output, response.receipt)


def _show_ended_as_json(
    invocation: Invocation, ended: list[tuple[str, sessions_pb2.KickSessionResponse]], *, several: bool
) -> None:
    answers = [{"sessionId": session_id, **as_data(response)} for session_id, response in ended]
    if several:
        invocation.output.data(answers)
    elif answers:
        invocation.output.data(answers[0])


def _row(session: sessions_pb2.Session, now: float) -> list[Cell | str]:
    kind = sessions_pb2.SessionKind.Name(session.kind).removeprefix("SESSION_KIND_").lower()
    times = (
        moment(seconds(getattr(session, name)) if session.HasField(name) else None, now)
        for name in ("created_at", "last_seen_at", "idle_expires_at", "expires_at")
    )
    return [
        session.session_id,
        Cell(session.subject, "bold"),
        session.client_id,
        kind,
        *times,
        join(session.audiences),
        join(session.scopes),
    ]
