"""Asking the mesh about a token: its keys for the signature, the auth service for everything that only it knows.

A token goes nowhere before it is found to be this mesh's own, and a refresh token or a client's secret never to
anybody but the auth service. That the mesh cannot be asked is an answer too.
"""

from __future__ import annotations

from typing import Final

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.inspection.token import FORGIVEN, LEEWAY, Check, Decoded, Kind, Verdict, check_keys
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.options import Invocation
from authsvc.cli.terminal.times import relative
from authsvc.store.timestamps import seconds
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from credmesh.store.v1 import mesh_pb2
from interceptors.errors import Reason
from interceptors.tokens.verification_key import ALGORITHMS, VerificationKey

__all__ = ["ask_the_mesh"]

_MOST_SENT: Final = 8000
"""Bytes of metadata that gRPC lets through (its default soft limit is 8 KiB)."""


def ask_the_mesh(invocation: Invocation, text: str, token: Decoded, checks: list[Check], now: float) -> list[Check]:
    """The checks and what the mesh has to say, in the order in which a node looks. Raises nothing for a mesh away.

    now is the one in seconds since 1970 that the checks were made with, so that all speak of the same moment.
    """
    if token.problem or token.kind in (Kind.CLIENT_SECRET, Kind.UNREADABLE):
        return checks
    try:
        connection = invocation.connect_anonymously()
    except Failure as failure:
        return [*checks, _unchecked("now", failure)]
    with connection as auth:
        found = list(checks)
        if token.kind is Kind.ACCESS_TOKEN:
            found.insert(2, _check_signature(auth, text, token))
        # Only the time is left to the auth service's own clock; anything else settles it, and may mean that the token
        # is another mesh's, which is nothing to show around.
        if any(check.verdict is Verdict.BAD and check.name not in ("time", "audience") for check in found):
            return found
        return [*found, _check_now(invocation, auth, text, token, found, now)]


def _check_signature(auth: Connection, text: str, token: Decoded) -> Check:
    stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
    try:
        answer = auth.call(stub.GetKeySet, auth_pb2.GetKeySetRequest())
    except Failure as failure:
        return _unchecked("signature", failure)
    keys = {key.kid: key for key in map(_verification_key, answer.keys) if key is not None}
    return check_keys(text, token, keys)


def _verification_key(key: auth_pb2.JsonWebKey) -> VerificationKey | None:
    if key.alg not in ALGORITHMS:
        return None  # a newer mesh's; a token of it is of an unknown key to us
    members = {field.name: value for field, value in key.ListFields()}
    try:
        public_key = PyJWK.from_dict(members, algorithm=key.alg).key
    except PyJWTError:
        return None
    return VerificationKey(key.kid, key.alg, public_key, mesh_pb2.VerificationKey.STATE_UNSPECIFIED)


def _check_now(
    invocation: Invocation, auth: Connection, text: str, token: Decoded, checks: list[Check], now: float
) -> Check:
    """What the auth service says: by Introspect, whose answer has no reasons; then by the token's own call."""
    try:
        with invocation.connect() as signed_in:
            stub = auth_pb2_grpc.AuthServiceStub(signed_in.channel)
            answer = signed_in.call(stub.Introspect, auth_pb2.IntrospectRequest(token=text))
    except Failure as failure:
        if token.kind is Kind.REFRESH_TOKEN or failure.exit_code == ExitCode.UNREACHABLE:
            return _unchecked("now", failure)
        return _check_own_call(auth, text, token, checks, _unchecked("now", failure), now)
    if answer.active:
        return _accepted(token, answer, now)
    if token.kind is Kind.REFRESH_TOKEN:
        why = "the auth service does not take it: it was used already, or its session has ended"
        return Check("now", Verdict.BAD, why)
    inactive = Check("now", Verdict.BAD, "the auth service does not accept it")
    return _check_own_call(auth, text, token, checks, inactive, now)


def _check_own_call(
    auth: Connection, text: str, token: Decoded, checks: list[Check], otherwise: Check, now: float
) -> Check:
    """What the auth service's own interceptor says to the token: the reason that any node would give.

    `otherwise` is the answer if it cannot be asked so.
    """
    if len(text) > _MOST_SENT or not text.isascii() or not text.isprintable() or " " in text:
        return otherwise  # it cannot travel as a header
    try:
        stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
        answer = auth.call(stub.WhoAmI, auth_pb2.WhoAmIRequest(), credential=text)
    except Failure as failure:
        return _reason(failure, token, checks, otherwise, now)
    speaks_for = f"the auth service accepts it for {answer.identity.subject}"
    return Check("now", Verdict.GOOD, speaks_for)


def _reason(failure: Failure, token: Decoded, checks: list[Check], otherwise: Check, now: float) -> Check:
    reason = Reason.__members__.get(failure.reason)
    if reason is None or reason.status.name == "UNAVAILABLE":
        return otherwise if otherwise.verdict is Verdict.BAD else _unchecked("now", failure)
    if reason is Reason.AUDIENCE_MISMATCH:
        # The audience is looked at last: signature, times and epochs are good.
        return Check("now", Verdict.GOOD, "the auth service finds it good, though not for itself")
    if reason is Reason.CREDENTIAL_REVOKED:
        epoch = token.claims.get("epoch")
        since = f" at a revision above its epoch, {epoch}" if epoch is not None else " after it was begun"
        why = f"it was revoked: its subject, session, client or audience, or everyone's,{since}"
    elif reason is Reason.CREDENTIAL_EXPIRED:
        expires = token.time("exp")
        why = "it expired" if expires is None else f"it expired {relative(expires, now)}"
        if not any(check.name == "time" and check.verdict is Verdict.BAD for check in checks) and expires is not None:
            why = "it expired by the auth service's clock; is this machine's clock right?"
            if now >= expires:
                why = f"it expired {relative(expires, now)}, and is not forgiven any more by the auth service's clock"
    elif reason is Reason.KEY_UNKNOWN:
        why = f"key {token.header.get('kid')} is not one of the mesh's: it was removed or revoked"
    elif token.kind is Kind.SESSION_TOKEN:
        why = "there is no such session: it was ended, or timed out, or the token is another mesh's"
    else:
        why = f"the auth service says {reason.name}: {reason.message}"
    return Check("now", Verdict.BAD, why)


def _accepted(token: Decoded, answer: auth_pb2.IntrospectResponse, now: float) -> Check:
    why = f"the auth service accepts it for {answer.identity.subject}"
    if answer.HasField("expires_at"):
        ends = seconds(answer.expires_at)
        why += f", and it {'expires' if now < ends else 'expired'} {relative(ends, now)}"
        if token.kind is Kind.ACCESS_TOKEN and now >= ends + LEEWAY:
            why += f": this machine's clock is ahead, or CREDMESH_LEEWAY is more than {LEEWAY:.0f} s there"
        elif token.kind is Kind.ACCESS_TOKEN and now >= ends:
            why += f", {FORGIVEN}"
    return Check("now", Verdict.GOOD, why)


def _unchecked(name: str, failure: Failure) -> Check:
    return Check(name, Verdict.UNKNOWN, f"could not be asked: {failure.message}")
