"""What a failed call means to the person who ran a command: what happened, what to do next, which exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.profile import Profile
from interceptors.errors import Reason

__all__ = ["DEADLINE_EXCEEDED", "Speaker", "Trouble", "explain"]

_Code: Final = grpc.StatusCode
DEADLINE_EXCEEDED: Final = "DEADLINE_EXCEEDED"

_EXIT_CODES: Final = {
    _Code.UNAVAILABLE: ExitCode.UNREACHABLE,
    _Code.DEADLINE_EXCEEDED: ExitCode.UNREACHABLE,
    _Code.NOT_FOUND: ExitCode.NOTHING,
    _Code.INVALID_ARGUMENT: ExitCode.USAGE,
}
_COMMANDS: Final = {
    "ListKeys": "`credmesh keys` lists the signing keys.",
    "ListClients": "`credmesh client list` lists the clients and their secrets' ids.",
}
"""What makes the calls that the auth service advises in its errors, which are for programs too."""
# gRPC has no code for "no connection": its texts decide whether anybody was there to answer. A text that changes makes
# the message less exact, never wrong.
_TLS_TEXTS: Final = ("SSL", "handshak", "Handshak")
_HUNG_UP_TEXTS: Final = ("Socket closed", "Connection reset")
_NOBODY_TEXTS: Final = (
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
class Speaker:
    """As whom a call was made; `kind` is "client", "user", or "" for nobody, or for the user `name` who signs in."""

    kind: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.kind else "you"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a failed call said: its status, and the ErrorInfo if credmesh sent one."""

    code: grpc.StatusCode
    details: str = ""
    reason: Reason | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def explain(trouble: Trouble, profile: Profile, speaker: Speaker, *, timeout: float) -> Failure:
    """The failure to show. `timeout` is how many seconds the call had."""
    if trouble.reason is not None:
        return _refused(trouble, trouble.reason, profile, speaker)
    if trouble.code is _Code.UNAVAILABLE:
        return _unavailable(trouble, profile)
    code = _EXIT_CODES.get(trouble.code, ExitCode.FAILED)
    message, next_step = trouble.details or f"the auth service answered {trouble.code.name}", _command(trouble)
    if trouble.code is _Code.DEADLINE_EXCEEDED:
        message = f"the auth service at {profile.auth} did not answer within {timeout:g} s"
        next_step = "Give it longer with --timeout SECONDS, or look at its log: it may be waiting for etcd."
    elif trouble.code is _Code.UNIMPLEMENTED:
        message = f"what listens at {profile.auth} does not know this call"
        next_step = f"Is that an auth service, and as new as this command? {profile.place('auth')} says where it is."
    elif trouble.code in (_Code.INTERNAL, _Code.UNKNOWN):
        next_step = "The auth service's log says more (`make run` keeps it in .mesh/logs)."
    return Failure(message, next_step=next_step, code=code, reason=trouble.code.name)


def _command(trouble: Trouble) -> str:
    """The command for the call that the text advises; "" if it advises none."""
    return next((command for name, command in _COMMANDS.items() if name in trouble.details), "")


def _unavailable(trouble: Trouble, profile: Profile) -> Failure:
    message, next_step = _who_is_away(trouble.details, profile)
    return Failure(message, next_step=next_step, code=ExitCode.UNREACHABLE, reason=_Code.UNAVAILABLE.name)


def _who_is_away(details: str, profile: Profile) -> tuple[str, str]:
    trusted = "the system's authorities" if profile.ca_file is None else str(profile.ca_file)
    if "Hostname Verification" in details or "Peer name" in details:
        return (
            f"the certificate of {profile.auth} is for another host",
            f"Set {profile.entry('server_name')} to the name that it holds.",
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            f"the certificate of {profile.auth} is not signed by {trusted}",
            f"{profile.entry('ca_file')} has to be what signed it. A mesh that was made anew has a new one.",
        )
    if "WRONG_VERSION_NUMBER" in details:
        return (
            f"what listens at {profile.auth} speaks no TLS",
            "Is that the right port? plaintext (CREDMESH_PLAINTEXT) is for a mesh without TLS.",
        )
    if any(text in details for text in _TLS_TEXTS):
        return (
            f"no TLS connection to {profile.auth}: {details}",
            f"What is trusted is {trusted}; {profile.entry('ca_file')} is where to change that.",
        )
    if profile.plaintext and profile.ca_file is None and any(text in details for text in _HUNG_UP_TEXTS):
        return (
            f"what listens at {profile.auth} hangs up on a connection without TLS",
            f"Set {profile.entry('ca_file')}, in place of {profile.entry('plaintext')}.",
        )
    if not details or any(text in details for text in _NOBODY_TEXTS):
        return (
            f"nobody answers at {profile.auth}",
            f"Is the mesh up? `make run` starts one on this machine. {profile.place('auth')} says where it is.",
        )
    return f"the auth service cannot answer now: {details}", "Try again. If it lasts: is etcd up?"


def _refused(trouble: Trouble, reason: Reason, profile: Profile, speaker: Speaker) -> Failure:
    code = _EXIT_CODES.get(trouble.code, ExitCode.FAILED)
    message, next_step = reason.message, ""
    if reason in (Reason.SCOPE_MISSING, Reason.AUDIENCE_MISMATCH) and not speaker.kind and speaker.name:
        message, next_step = _not_granted(trouble, reason, speaker.name)
    elif reason is Reason.SCOPE_MISSING:
        scope = trouble.metadata.get("scope", "")
        message = f"{speaker} may not do this: it lacks the scope {scope}" if scope else f"{speaker} lacks a scope"
        next_step = (
            "Speak as somebody who has it (--as, --profile), or make a client with it: credmesh client add ID "
            + (f"--scope {scope} --audience credmesh.auth" if scope else "--scope SCOPE --audience credmesh.auth")
        )
    elif reason is Reason.AUDIENCE_MISMATCH:
        message = f"the credential of {speaker} is not for the auth service"
        next_step = "Its account, and its sign-in, need the audience credmesh.auth."
    elif reason is Reason.RATE_LIMITED and trouble.details not in ("", reason.message):
        message = trouble.details  # it says what there is too much of, and what to do
        next_step = _command(trouble)
    elif reason is Reason.RATE_LIMITED:
        message = "too many attempts to sign in"
        next_step = "Wait a minute before the next."
    elif reason in (Reason.MESH_NOT_READY, Reason.MESH_STALE):
        message = f"the auth service cannot answer now: {reason.message}"
        next_step = "Try again in a moment. If it lasts: is etcd up?"
    elif speaker.kind == "user":
        message = f"the session of {speaker.name} is over: it was ended, was revoked or timed out"
        next_step = f"Sign in again: credmesh login {speaker.name}"
    elif speaker.kind == "client":
        message = f"the auth service refuses {speaker}: {reason.message}"
        next_step = (
            f"Its secret is read from {profile.client_secret_file}. A mesh that was made anew has new secrets; "
            "`credmesh bootstrap operator` makes another client."
        )
    return Failure(message, next_step=next_step, code=code, reason=reason.name)


def _not_granted(trouble: Trouble, reason: Reason, subject: str) -> tuple[str, str]:
    """What to say to a user who showed the right password, and asked for what the account does not have."""
    what = "scope" if reason is Reason.SCOPE_MISSING else "audience"
    asked = trouble.metadata.get(what, "")
    if not asked and what == "audience":
        return (
            f"{subject} was not signed in: the account has no audience, so no service would take its credential",
            "Somebody who may change accounts gives it one: "
            f"credmesh user update {subject} --audience NAME (credmesh.auth for these commands).",
        )
    named = f"{what}s {asked}" if " " in asked else f"{what} {asked}".rstrip()
    return (
        f"{subject} was not signed in: the account does not have the {named}",
        f"Is that a typo? `credmesh user list` shows what it has, and without --{what} you get all of it.\n"
        f"`credmesh user update {subject}` changes that; say all that it is to have.",
    )
