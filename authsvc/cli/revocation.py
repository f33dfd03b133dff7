"""`credmesh revoke`."""

from __future__ import annotations

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.options import Invocation, MeshCommand, confirm, pass_invocation
from authsvc.cli.receipts import ask_to_wait, exit_by, show_receipt, wait_options
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
        stub = revocation_pb2_grpc.RevocationServiceStub(auth.channel)
        answer = auth.call(stub.Revoke, request, timeout=invocation.patience if request.wait else None)
    if invocation.as_json:
        invocation.output.message(answer)
    else:
        what = _what(request)
        invocation.output.line(f"Revoked {what} up to now: from revision {answer.revision} on nodes refuse it.")
        if answer.HasField("receipt"):
            show_receipt(invocation.output, answer.receipt)
    if answer.HasField("receipt"):
        exit_by(answer.receipt)


def _what(request: revocation_pb2.RevokeRequest) -> str:
    kinds = {
        "subject": f"what was issued to {request.subject}",
        "session_id": f"what hangs from session {request.session_id}",
        "client_id": f"what was given to client {request.client_id}",
        "audience": f"what may be used at {request.audience}",
    }
    return kinds.get(request.WhichOneof("scope") or "", "everything that was issued")
