"""`credmesh revoke`."""

from __future__ import annotations

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.mesh.typo_warnings import (
    client_exists,
    session_exists,
    subject_exists,
    unknown_client_warning,
    unknown_session_warning,
    unknown_subject_warning,
    warn,
)
from authsvc.cli.options import Invocation, MeshCommand, confirm, pass_invocation
from authsvc.cli.receipts import exit_if_incomplete, set_wait, show_receipt, wait_options
from authsvc.cli.terminal.output import as_data
from credmesh.admin.v1 import revocation_pb2, revocation_pb2_grpc

__all__ = ["revoke"]


@click.command("revoke", cls=MeshCommand)
@click.option("--subject", metavar="NAME", help="Everything issued to a user, or to a client for itself.")
@click.option("--session", "session_id", metavar="ID", help="Everything that belongs to a session.")
@click.option("--client", "client_id", metavar="ID", help="Everything issued through a client.")
@click.option("--audience", metavar="NAME", help="Everything that a service accepts.")
@click.option("--everyone", is_flag=True, help="Everything. All users and clients have to sign in again.")
@click.option("--reason", default="", metavar="TEXT", help="The reason, for the audit trail.")
@click.option("--yes", is_flag=True, help="With --everyone: do not ask for confirmation.")
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
    """Revoke credentials that were issued up to now, of a subject, session, client, audience or everyone.

    Every node refuses them and ends the streams that they opened. Credentials that are issued later are not affected.
    With --wait the answer is a receipt: it shows which nodes have applied the revocation.

    An unknown name is revoked too, with a warning: it may belong to a deleted account. In --json `known` says whether
    the name exists. It is absent for everyone, for an audience, and if you may not list the names.
    """
    scopes = {"subject": subject, "session_id": session_id, "client_id": client_id, "audience": audience}
    given = {name: value for name, value in scopes.items() if value is not None}
    if len(given) + everyone != 1:
        raise Failure(
            "revoke needs exactly one scope",
            next_step="Give one of --subject NAME, --session ID, --client ID, --audience NAME, --everyone.",
            code=ExitCode.USAGE,
        )
    request = revocation_pb2.RevokeRequest(reason=reason)
    for name, value in given.items():
        setattr(request, name, value)
    if everyone:
        request.everyone = True
        confirm("Revoke every credential? All users and clients have to sign in again.", yes=yes)
    set_wait(request, wait=wait, at_most=at_most)
    with invocation.connect() as auth:
        # A session must be looked up before the revocation ends it. An account is looked up afterwards: the revocation
        # is more urgent.
        known = session_exists(auth, request.session_id) if request.session_id else None
        stub = revocation_pb2_grpc.RevocationServiceStub(auth.channel)
        response = auth.call(stub.Revoke, request, timeout=invocation.call_timeout(waits_for_nodes=request.wait))
        if not invocation.as_json:
            _show_revocation(invocation, request, response)
        known = _account_exists(auth, request) if known is None else known
    if invocation.as_json:
        invocation.output.data(as_data(response) | ({} if known is None else {"known": known}))
    elif known is False:
        warn(_unknown_name_warning(request))
    if response.HasField("receipt"):
        exit_if_incomplete(response.receipt)


def _show_revocation(
    invocation: Invocation, request: revocation_pb2.RevokeRequest, response: revocation_pb2.RevokeResponse
) -> None:
    revoked = {
        "subject": f"everything issued to {request.subject}",
        "session_id": f"everything that belongs to session {request.session_id}",
        "client_id": f"everything issued through client {request.client_id}",
        "audience": f"everything that {request.audience} accepts",
    }.get(request.WhichOneof("scope") or "", "everything that was issued")
    invocation.output.line(f"Revoked {revoked} up to now. Nodes refuse it from revision {response.revision} on.")
    if response.HasField("receipt"):
        show_receipt(invocation.output, response.receipt)


def _account_exists(auth: Connection, request: revocation_pb2.RevokeRequest) -> bool | None:
    """Whether the account in the request exists; None if that is not known, or the request names no account."""
    if request.subject:
        return subject_exists(auth, request.subject)
    return client_exists(auth, request.client_id) if request.client_id else None


def _unknown_name_warning(request: revocation_pb2.RevokeRequest) -> str:
    if request.subject:
        return unknown_subject_warning(request.subject)
    if request.client_id:
        return unknown_client_warning(request.client_id)
    return unknown_session_warning(request.session_id)
