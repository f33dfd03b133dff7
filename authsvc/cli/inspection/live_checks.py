"""Checks of a token that need the mesh: its keys for the signature, and the auth service for revocations.

A token is sent to the auth service only if no check shows that it belongs to another mesh. A refresh token or
a client's secret is never sent as a credential of a call. An unreachable mesh is not an error but an answer.
"""

from __future__ import annotations

from typing import Final

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.inspection.token import (
    DEFAULT_LEEWAY_SECONDS,
    WITHIN_LEEWAY,
    Check,
    Decoded,
    Kind,
    Verdict,
    check_signature,
)
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.options import Invocation
from authsvc.cli.terminal.times import relative
from authsvc.store.timestamps import seconds
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from credmesh.store.v1 import mesh_pb2
from interceptors.errors import Reason
from interceptors.tokens.token_rules import ALGORITHMS
from interceptors.tokens.verification_key import VerificationKey

__all__ = ["add_live_checks"]

_MAX_METADATA_BYTES: Final = 8000
"""A larger token is not sent as metadata: gRPC's default soft limit is 8 KiB."""


def add_live_checks(invocation: Invocation, text: str, token: Decoded, checks: list[Check], now: float) -> list[Check]:
    """Returns the checks with those of the mesh, in a node's order. If the mesh is unreachable these are UNKNOWN.

    now  seconds since 1970; the same that the other checks were made with
    """
    if token.problem or token.kind in (Kind.CLIENT_SECRET, Kind.UNREADABLE):
        return checks
    try:
        connection = invocation.connect_anonymously()
    except Failure as failure:
        return [*checks, _unchecked("now", failure)]
    with connection as auth:
        result = list(checks)
        if token.kind is Kind.ACCESS_TOKEN:
            result.insert(2, _check_signature(auth, text, token))
        # For the time the auth service's clock decides. Any other failed check is final. The token may then belong to
        # another mesh, so it must not be sent.
        if any(check.verdict is Verdict.BAD and check.name not in ("time", "audience") for check in result):
            return result
        return [*result, _check_now(invocation, auth, text, token, result, now)]


def _check_signature(auth: Connection, text: str, token: Decoded) -> Check:
    stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
    try:
        answer = auth.call(stub.GetKeySet, auth_pb2.GetKeySetRequest())
    except Failure as failure:
        return _unchecked("signature", failure)
    keys = {key.kid: key for key in map(_verification_key, answer.keys) if key is not None}
    return check_signature(text, token, keys)


def _verification_key(key: auth_pb2.JsonWebKey) -> VerificationKey | None:
    if key.alg not in ALGORITHMS:
        return None  # of a newer release: a token that it signed has an unknown key here
    members = {field.name: value for field, value in key.ListFields()}
    try:
        public_key = PyJWK.from_dict(members, algorithm=key.alg).key
    except PyJWTError:
        return None
    return VerificationKey(key.kid, key.alg, public_key, mesh_pb2.VerificationKey.STATE_UNSPECIFIED)


def _check_now(
    invocation: Invocation, auth: Connection, text: str, token: Decoded, checks: list[Check], now: float
) -> Check:
    """Asks the auth service with Introspect. Its answer has no reasons, so a refused token then makes a call itself."""
    try:
        with invocation.connect() as signed_in:
            stub = auth_pb2_grpc.AuthServiceStub(signed_in.channel)
            answer = signed_in.call(stub.Introspect, auth_pb2.IntrospectRequest(token=text))
    except Failure as failure:
        if token.kind is Kind.REFRESH_TOKEN or failure.exit_code == ExitCode.UNREACHABLE:
            return _unchecked("now", failure)
        return _check_with_own_call(auth, text, token, checks, _unchecked("now", failure), now)
    if answer.active:
        return _accepted(token, answer, now)
    if token.kind is Kind.REFRESH_TOKEN:
        why = "the auth service does not accept it: it was used already, or its session has ended"
        return Check("now", Verdict.BAD, why)
    inactive = Check("now", Verdict.BAD, "the auth service does not accept it")
    return _check_with_own_call(auth, text, token, checks, inactive, now)


def _check_with_own_call(
    auth: Connection, text: str, token: Decoded, checks: list[Check], otherwise: Check, now: float
) -> Check:
    """Makes a call with the token. The auth service's interceptor refuses it with the reason that any node would give.

    otherwise  the result if the token cannot be sent, or the call gives no reason
    """
    if len(text) > _MAX_METADATA_BYTES or not text.isascii() or not text.isprintable() or " " in text:
        return otherwise  # it cannot be sent as metadata
    try:
        stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
        answer = auth.call(stub.WhoAmI, auth_pb2.WhoAmIRequest(), credential=text)
    except Failure as failure:
        return _check_of_refusal(failure, token, checks, otherwise, now)
    return Check("now", Verdict.GOOD, f"the auth service accepts it for {answer.identity.subject}")


def _check_of_refusal(failure: Failure, token: Decoded, checks: list[Check], otherwise: Check, now: float) -> Check:
    reason = Reason.__members__.get(failure.reason)
    if reason is None or reason.status.name == "UNAVAILABLE":
        return otherwise if otherwise.verdict is Verdict.BAD else _unchecked("now", failure)
    if reason is Reason.AUDIENCE_MISMATCH:
        # A node checks the audience last: signature, times and epochs are good.
        return Check("now", Verdict.GOOD, "the auth service finds it valid, but for other services")
    if reason is Reason.CREDENTIAL_REVOKED:
        epoch = token.claims.get("epoch")
        since = f"at a revision above its epoch, {epoch}" if epoch is not None else "after it was issued"
        why = f"it was revoked (by subject, session, client, audience, or everyone) {since}"
    elif reason is Reason.CREDENTIAL_EXPIRED:
        expires = token.time("exp")
        why = "it expired" if expires is None else f"it expired {relative(expires, now)}"
        if not any(check.name == "time" and check.verdict is Verdict.BAD for check in checks) and expires is not None:
            why = "it has expired by the auth service's clock; is this machine's clock right?"
            if now >= expires:
                why = f"it expired {relative(expires, now)}; by the auth service's clock the tolerance has passed too"
    elif reason is Reason.KEY_UNKNOWN:
        why = f"the mesh has no key {token.header.get('kid')}: it was removed or revoked"
    elif token.kind is Kind.SESSION_TOKEN:
        why = "there is no such session: it was ended or timed out, or the token belongs to another mesh"
    else:
        why = f"the auth service says {reason.name}: {reason.message}"
    return Check("now", Verdict.BAD, why)


def _accepted(token: Decoded, answer: auth_pb2.IntrospectResponse, now: float) -> Check:
    why = f"the auth service accepts it for {answer.identity.subject}"
    if answer.HasField("expires_at"):
        ends = seconds(answer.expires_at)
        why += f", and it {'expires' if now < ends else 'expired'} {relative(ends, now)}"
        if token.kind is Kind.ACCESS_TOKEN and now >= ends + DEFAULT_LEEWAY_SECONDS:
            why += ": this machine's clock is ahead, or the auth service's CREDMESH_LEEWAY is above "
            why += f"{DEFAULT_LEEWAY_SECONDS:.0f} s"
        elif token.kind is Kind.ACCESS_TOKEN and now >= ends:
            why += f", {WITHIN_LEEWAY}"
    return Check("now", Verdict.GOOD, why)


def _unchecked(name: str, failure: Failure) -> Check:
    return Check(name, Verdict.UNKNOWN, f"could not be checked: {failure.message}")
