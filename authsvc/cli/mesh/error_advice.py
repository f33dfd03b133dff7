"""Turns a failed call into a message: what happened, what to do next, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.profile import Profile
from interceptors.errors import Reason

__all__ = ["DEADLINE_EXCEEDED", "CallError", "CallerAccount", "failure_of_call"]

_Code: Final = grpc.StatusCode
DEADLINE_EXCEEDED: Final = "DEADLINE_EXCEEDED"

_EXIT_CODES: Final = {
    _Code.UNAVAILABLE: ExitCode.UNREACHABLE,
    _Code.DEADLINE_EXCEEDED: ExitCode.UNREACHABLE,
    _Code.NOT_FOUND: ExitCode.NOTHING,
    _Code.INVALID_ARGUMENT: ExitCode.USAGE,
}
_COMMAND_ADVICE: Final = {
    "ListKeys": "`credmesh keys` lists the signing keys.",
    "ListClients": "`credmesh client list` lists the clients and their secrets' ids.",
}
"""RPCs that the auth service recommends in its error texts, and the command that makes each of them."""
# gRPC has no status for "no connection", so its error texts decide what went wrong. If a future gRPC changes a text,
# the message becomes less exact, not wrong.
_TLS_TEXTS: Final = ("SSL", "handshak", "Handshak")
_CLOSED_TEXTS: Final = ("Socket closed", "Connection reset")
_NO_SERVER_TEXTS: Final = (
    "failed to connect",
    "connections to all backends failing",
    "Connection refused",
    "Connection reset",
    "Socket closed",
    "Broken pipe",
    "DNS resolution",
    "errors resolving",
    "empty address list",
    "No route to host",
    "Network is unreachable",
)


@dataclass(frozen=True, slots=True)
class CallerAccount:
    """The account that a call is made as.

    kind  "client", "user", or "" for a call without a credential
    name  its name; with kind "" the user who is signing in, or ""
    """

    kind: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.kind else "you"


@dataclass(frozen=True, slots=True)
class CallError:
    """A failed call: its status, and what its ErrorInfo holds if credmesh sent one."""

    code: grpc.StatusCode
    details: str = ""
    reason: Reason | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def failure_of_call(error: CallError, profile: Profile, account: CallerAccount, *, timeout: float) -> Failure:
    """The failure to show for a call. `timeout` is the call's, in seconds."""
    if error.reason is not None:
        return _refusal(error, error.reason, profile, account)
    if error.code is _Code.UNAVAILABLE:
        message, next_step = _connection_problem(error.details, profile)
        return Failure(message, next_step=next_step, code=ExitCode.UNREACHABLE, reason=error.code.name)
    code = _EXIT_CODES.get(error.code, ExitCode.FAILED)
    message, next_step = error.details or f"the auth service answered {error.code.name}", _command_advice(error)
    if error.code is _Code.DEADLINE_EXCEEDED:
        message = f"the auth service at {profile.auth} did not answer within {timeout:g} s"
        next_step = "Allow more time with --timeout SECONDS. The auth service's log shows whether it waits for etcd."
    elif error.code is _Code.UNIMPLEMENTED:
        message = f"the server at {profile.auth} does not know this call"
        next_step = (
            "It may not be an auth service, or be older than this command. Its address is from "
            f"{profile.source_of('auth')}."
        )
    elif error.code in (_Code.INTERNAL, _Code.UNKNOWN):
        next_step = "The auth service's log has the cause (`make run` keeps it in .mesh/logs)."
    return Failure(message, next_step=next_step, code=code, reason=error.code.name)


def _command_advice(error: CallError) -> str:
    """The command that makes the RPC that the text recommends; "" if it recommends none."""
    return next((command for rpc, command in _COMMAND_ADVICE.items() if rpc in error.details), "")


def _connection_problem(details: str, profile: Profile) -> tuple[str, str]:
    """What to show for UNAVAILABLE without a reason: the message and the next step."""
    trusted = "the system's CAs" if profile.ca_file is None else str(profile.ca_file)
    if "Hostname Verification" in details or "Peer name" in details:
        return (
            f"the certificate of {profile.auth} is for another host",
            f"Set {profile.setting_of('server_name')} to the name in the certificate.",
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            f"the certificate of {profile.auth} is not signed by {trusted}",
            f"Set {profile.setting_of('ca_file')} to the CA that signed it. A new mesh has a new CA.",
        )
    if "WRONG_VERSION_NUMBER" in details:
        return (
            f"the server at {profile.auth} does not use TLS",
            "Check the port. For a mesh without TLS set plaintext (CREDMESH_PLAINTEXT).",
        )
    if any(text in details for text in _TLS_TEXTS):
        return (
            f"no TLS connection to {profile.auth}: {details}",
            f"The trusted CA is {trusted}; {profile.setting_of('ca_file')} sets it.",
        )
    if profile.plaintext and profile.ca_file is None and any(text in details for text in _CLOSED_TEXTS):
        return (
            f"the server at {profile.auth} closed a connection without TLS",
            f"If it uses TLS, set {profile.setting_of('ca_file')} and remove {profile.setting_of('plaintext')}.",
        )
    if not details or any(text in details for text in _NO_SERVER_TEXTS):
        return (
            f"no server answers at {profile.auth}",
            f"Is the mesh up? `make run` starts one on this machine. The address is from {profile.source_of('auth')}.",
        )
    return f"the auth service cannot answer now: {details}", "Try again. If it keeps failing, check that etcd is up."


def _refusal(error: CallError, reason: Reason, profile: Profile, account: CallerAccount) -> Failure:
    code = _EXIT_CODES.get(error.code, ExitCode.FAILED)
    message, next_step = reason.message, ""
    if reason in (Reason.SCOPE_MISSING, Reason.AUDIENCE_MISMATCH) and not account.kind and account.name:
        message, next_step = _login_exceeds_account(error, reason, account.name)
    elif reason is Reason.SCOPE_MISSING:
        scope = error.metadata.get("scope", "")
        message = f"{account} may not do this: it lacks {f'the scope {scope}' if scope else 'a scope'}"
        next_step = (
            "Use an account that has the scope (--as, --profile), or make a client with it: "
            f"credmesh client add ID --scope {scope or 'SCOPE'} --audience credmesh.auth"
        )
    elif reason is Reason.AUDIENCE_MISMATCH:
        message = f"the credential of {account} is not for the auth service"
        next_step = "The account and its sign-in need the audience credmesh.auth."
    elif reason is Reason.RATE_LIMITED and error.details not in ("", reason.message):
        message = error.details  # it says which limit was reached and what to do
        next_step = _command_advice(error)
    elif reason is Reason.RATE_LIMITED:
        message = "too many attempts to sign in"
        next_step = "Wait a minute before the next attempt."
    elif reason is Reason.REQUEST_MALFORMED:
        code = ExitCode.FAILED
        message = "the auth service cannot parse the command's request"
        next_step = "They may be of different versions: install the command in the version of the auth service."
    elif reason is Reason.REQUEST_MISSING:
        message = "the command's request did not reach the auth service in time"
        next_step = "Try again. If it keeps failing, look for what slows the network down."
    elif reason in (Reason.MESH_NOT_READY, Reason.MESH_STALE):
        message = f"the auth service cannot answer now: {reason.message}"
        next_step = "Try again in a moment. If it keeps failing, check that etcd is up."
    elif account.kind == "user":
        message = f"the session of {account.name} has ended: it was revoked, kicked, signed out or timed out"
        next_step = f"Sign in again: credmesh login {account.name}"
    elif account.kind == "client":
        message = f"the auth service refuses {account}: {reason.message}"
        next_step = (
            f"The client's secret is read from {profile.client_secret_file}. A new mesh has new secrets; "
            "`credmesh bootstrap operator` makes another client."
        )
    return Failure(message, next_step=next_step, code=code, reason=reason.name)


def _login_exceeds_account(error: CallError, reason: Reason, subject: str) -> tuple[str, str]:
    """What to show a user whose password is right, and whose login asks for a scope or audience the account lacks."""
    kind = "scope" if reason is Reason.SCOPE_MISSING else "audience"
    requested = error.metadata.get(kind, "")
    if not requested and kind == "audience":
        return (
            f"{subject} was not signed in: the account has no audience, so no service would accept its credential",
            "An operator can add one: "
            f"credmesh user update {subject} --audience NAME (credmesh.auth for these commands).",
        )
    named = f"{kind}s {requested}" if " " in requested else f"{kind} {requested}".rstrip()
    return (
        f"{subject} was not signed in: the account does not have the {named}",
        f"Check for a typo: `credmesh user list` shows what the account has. Without --{kind} you get all of it.\n"
        f"To change the account, name all that it should have: `credmesh user update {subject}`.",
    )
