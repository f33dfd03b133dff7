"""`credmesh sessions` and `kick`."""

from __future__ import annotations

import re
import time
from typing import Final

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.known_names import subject_is_known, unknown_subject, warn
from authsvc.cli.options import Invocation, MeshCommand, pass_invocation
from authsvc.cli.receipts import ask_to_wait, exit_by, show_receipt, wait_options
from authsvc.cli.terminal.output import Cell, Column, as_data, join
from authsvc.cli.terminal.times import moment
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import sessions_pb2, sessions_pb2_grpc

__all__ = ["kick", "sessions"]

_COLUMNS = (
    Column("Session", width=22, whole=True),
    Column("Subject", width=10),
    Column("Client", width=8),
    Column("Kind", width=6, wide=True),
    Column("Begun", width=10, wide=True),
    Column("Last seen", width=10),
    Column("Times out", width=10),
    Column("Ends", width=10, wide=True),
    Column("Audiences", wide=True),
    Column("Scopes", wide=True),
)

_ID_LIKE_AN_OPTION: Final = re.compile(r"-[A-Za-z0-9_-]{21}")


@click.command("sessions", cls=MeshCommand)
@click.option("--subject", default="", metavar="NAME", help="Only this user's.")
@click.option("--count", is_flag=True, help="Only say how many there are.")
@pass_invocation
def sessions(invocation: Invocation, subject: str, count: bool) -> None:
    """List the live sessions: whose they are, and when they were last seen.

    Where a subject has none, and nobody of that name is there, a warning says so (in --json: `known` is false).
    """
    request = sessions_pb2.ListSessionsRequest(subject=subject, page_size=1)
    with invocation.connect() as auth:
        stub = sessions_pb2_grpc.SessionServiceStub(auth.channel)
        answer = auth.call(stub.ListSessions, request) if count else auth.every_page(stub.ListSessions, request)
        known = subject_is_known(auth, subject) if subject and not answer.total_size else None
    if count:
        answer = sessions_pb2.ListSessionsResponse(total_size=answer.total_size)
    if invocation.as_json:
        invocation.output.data(as_data(answer) | ({} if known is None else {"known": known}))
    elif count:
        invocation.output.line(str(answer.total_size))
    else:
        now = time.time()
        nobody = f"{subject} has no session." if subject else "There is no session."
        invocation.output.table(_COLUMNS, [_row(session, now) for session in answer.sessions], empty=nobody)
    if known is False and not invocation.as_json:
        warn(unknown_subject(subject))


class _Kick(MeshCommand):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # A session's id is random base64url, so that one in 64 begins as an option does.
        if "--" not in args:
            ids = [argument for argument in args if _ID_LIKE_AN_OPTION.fullmatch(argument)]
            args = [*(argument for argument in args if argument not in ids), "--", *ids]
        return super().parse_args(ctx, args)


@click.command("kick", cls=_Kick)
@click.argument("session_ids", metavar="SESSION_ID...", nargs=-1, required=True)
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit trail.")
@wait_options
@pass_invocation
def kick(invocation: Invocation, session_ids: tuple[str, ...], reason: str, wait: bool, at_most: float | None) -> None:
    """End sessions by their ids, as `credmesh sessions` lists them.

    Every node refuses their credentials, and their open streams end. To end all of a user's: credmesh revoke --subject.
    Of several sessions --json tells in one list of those that were ended.
    """
    ended: list[tuple[str, sessions_pb2.KickSessionResponse]] = []
    missing: list[str] = []
    with invocation.connect() as auth:
        stub = sessions_pb2_grpc.SessionServiceStub(auth.channel)
        try:
            for session_id in session_ids:
                request = sessions_pb2.KickSessionRequest(session_id=session_id, reason=reason)
                ask_to_wait(request, wait=wait, at_most=at_most)
                try:
                    answer = auth.call(stub.KickSession, request, timeout=invocation.patience if request.wait else None)
                except Failure as failure:
                    if failure.exit_code != ExitCode.NOTHING:
                        raise
                    missing.append(session_id)
                    continue
                ended.append((session_id, answer))
                if not invocation.as_json:
                    _tell(invocation, session_id, answer)
        finally:
            # Whatever came in between: what was ended has been ended, and a script has to know.
            if invocation.as_json:
                _write(invocation, ended, several=len(session_ids) > 1)
    if missing:
        raise Failure(
            f"no such session: {' '.join(missing)}",
            next_step="It may have ended by itself. `credmesh sessions` lists those that live.",
            code=ExitCode.NOTHING,
            reason="NOT_FOUND",
        )
    for _, answer in ended:
        if answer.HasField("receipt"):
            exit_by(answer.receipt)


def _tell(invocation: Invocation, session_id: str, answer: sessions_pb2.KickSessionResponse) -> None:
    invocation.output.line(f"Ended session {session_id}: from revision {answer.revision} on nodes refuse it.")
    if answer.HasField("receipt"):
        show_receipt(invocation.output, answer.receipt)


def _write(invocation: Invocation, ended: list[tuple[str, sessions_pb2.KickSessionResponse]], *, several: bool) -> None:
    answers = [{"sessionId": session_id, **as_data(answer)} for session_id, answer in ended]
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
