"""`credmesh revoke`."""

from __future__ import annotations

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.mesh.known_names import (
    client_is_known,
    session_is_known,
    subject_is_known,
    unknown_client,
    unknown_session,
    unknown_subject,
    warn,
)
from authsvc.cli.options import Invocation, MeshCommand, confirm, pass_invocation
from authsvc.cli.receipts import ask_to_wait, exit_by, show_receipt, wait_options
from authsvc.cli.terminal.output import as_data
from credmesh.admin.v1 import revocation_pb2, revocation_pb2_grpc

__all__ = ["revoke"]


@click.command("revoke", cls=MeshCommand)
@click.option("--subject", metavar="NAME", help="What was issued to one user, or to one client for itself.")
@click.option("--session", "session_id", metavar="ID", help="What hangs from one session.")
@click.option("--client", "client_id", metavar="ID", help="What was given to one client.")
@click.option("--audience", metavar="NAME", help="What may be used at one service.")
@click.option("--everyone", is_flag=True, help="Everything. Everybody has to sign in again.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit trail.")
@click.option("--yes", is_flag=True, help="Do not ask before revoking everyone's.")
@wait_options
@pass_invocation
def revoke(
    invocation: Invocation,
    subject: str | None,
    session_id: str | None,
    client_id: str | None,
    audience: str | None,
    everyone: bool,
    reason: str,
    yes: bool,
    wait: bool,
    at_most: float | None,
) -> None:
    """Revoke what was issued up to now to a subject, session, client or audience, or to everyone.

    Every node refuses it from then on and ends the streams that it opened. What is issued afterwards is not touched.
    With --wait the nodes confirm it: the answer is a receipt.

    A name that nobody has is revoked too, with a warning: it may be one that was deleted. In --json `known` says
    whether somebody has it; it is absent for everyone, for an audience, and where you may not look.
    """
    scopes = {"subject": subject, "session_id": session_id, "client_id": client_id, "audience": audience}
    named = {name: value for name, value in scopes.items() if value is not None}
    if len(named) + everyone != 1:
        raise Failure(
            "say whose credentials to revoke, and only one of them",
            next_step="One of --subject NAME, --session ID, --client ID, --audience NAME, --everyone.",
            code=ExitCode.USAGE,
        )
    request = revocation_pb2.RevokeRequest(reason=reason)
    for name, value in named.items():
        setattr(request, name, value)
    if everyone:
        request.everyone = True
        confirm("Revoke everybody's credentials? Everybody has to sign in again, services too.", yes=yes)
    ask_to_wait(request, wait=wait, at_most=at_most)
    with invocation.connect() as auth:
        # A session is gone once it is revoked. Whether an account is there can wait, and the revocation cannot.
        known = session_is_known(auth, request.session_id) if request.session_id else None
        stub = revocation_pb2_grpc.RevocationServiceStub(auth.channel)
        answer = auth.call(stub.Revoke, request, timeout=invocation.patience if request.wait else None)
        if not invocation.as_json:
            _tell(invocation, request, answer)
        known = _account_is_known(auth, request) if known is None else known
    if invocation.as_json:
        invocation.output.data(as_data(answer) | ({} if known is None else {"known": known}))
    elif known is False:
        warn(_unknown(request))
    if answer.HasField("receipt"):
        exit_by(answer.receipt)


def _tell(invocation: Invocation, request: revocation_pb2.RevokeRequest, answer: revocation_pb2.RevokeResponse) -> None:
    what = _what(request)
    invocation.output.line(f"Revoked {what} up to now: from revision {answer.revision} on nodes refuse it.")
    if answer.HasField("receipt"):
        show_receipt(invocation.output, answer.receipt)


def _account_is_known(auth: Connection, request: revocation_pb2.RevokeRequest) -> bool | None:
    """Whether the account is there whose credentials were revoked; None if it cannot be said, or is no account."""
    if request.subject:
        return subject_is_known(auth, request.subject)
    return client_is_known(auth, request.client_id) if request.client_id else None


def _unknown(request: revocation_pb2.RevokeRequest) -> str:
    if request.subject:
        return unknown_subject(request.subject)
    return unknown_client(request.client_id) if request.client_id else unknown_session(request.session_id)


def _what(request: revocation_pb2.RevokeRequest) -> str:
    kinds = {
        "subject": f"what was issued to {request.subject}",
        "session_id": f"what hangs from session {request.session_id}",
        "client_id": f"what was given to client {request.client_id}",
        "audience": f"what may be used at {request.audience}",
    }
    return kinds.get(request.WhichOneof("scope") or "", "everything that was issued")
