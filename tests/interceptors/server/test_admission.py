"""Which calls are admitted: every client, every server, every kind of RPC, every reason."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
import pytest

from interceptors import MeshNode, Reason, Refusal, reason_of
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from tests.support.probe.clients import Client, bearer
from tests.support.probe.issuer import Issuer
from tests.support.probe.schema import KINDS
from tests.support.waiting import wait_until

Bad = Callable[[Issuer], str]

HOSTILE: dict[str, tuple[Bad, Reason]] = {
    "expired": (lambda issuer: issuer.token(exp=time.time() - 1), Reason.CREDENTIAL_EXPIRED),
    "not-yet-valid": (lambda issuer: issuer.token(nbf=time.time() + 60), Reason.CREDENTIAL_INVALID),
    "another-audience": (lambda issuer: issuer.token(aud=["orders"]), Reason.AUDIENCE_MISMATCH),
    "no-scope": (lambda issuer: issuer.token(scope="probe.other"), Reason.SCOPE_MISSING),
    "another-issuer": (lambda issuer: issuer.token(iss="https://evil.test"), Reason.CREDENTIAL_INVALID),
    "another-type": (lambda issuer: issuer.token(header={"typ": "JWT"}), Reason.CREDENTIAL_INVALID),
    "unknown-kid": (lambda issuer: issuer.token(header={"kid": "nobody"}), Reason.KEY_UNKNOWN),
    "altered": (lambda issuer: _altered(issuer.token()), Reason.CREDENTIAL_INVALID),
    "not-a-token": (lambda issuer: "letmein", Reason.CREDENTIAL_MALFORMED),
    "oversized": (lambda issuer: "x" * 5000, Reason.CREDENTIAL_TOO_LARGE),
    "many-audiences": (lambda issuer: issuer.token(aud=["probe", *map(str, range(40))]), Reason.CREDENTIAL_INVALID),
    "refresh-token": (lambda issuer: OpaqueToken.generate(OpaqueKind.REFRESH).text(), Reason.CREDENTIAL_MALFORMED),
    "unresolvable-session": (lambda issuer: OpaqueToken.generate(OpaqueKind.SESSION).text(), Reason.CREDENTIAL_INVALID),
    "broken-session": (lambda issuer: "cms_" + "A" * 70, Reason.CREDENTIAL_MALFORMED),
}


def _altered(token: str) -> str:
    head, body, tail = token.split(".")
    return f"{head}.{body[:-2]}{'AA' if body[-2:] != 'AA' else 'AQ'}.{tail}"


def test_a_valid_credential_is_accepted_and_the_handler_sees_the_caller(client: Client, issuer: Issuer) -> None:
    token = issuer.token(sub="alice", jti="token-1")
    for kind in KINDS:
        outcome = client.call(kind, "who", metadata=bearer(token))
        assert (outcome.code, outcome.answers[0]) == (grpc.StatusCode.OK, "alice"), kind
        outcome = client.call(kind, "claims", metadata=bearer(token))
        assert outcome.answers[0] == "alice app session-1 ['probe.other', 'probe.use'] token-1", kind


def test_every_bad_credential_is_refused_with_its_reason(client: Client, issuer: Issuer) -> None:
    for name, (make, reason) in HOSTILE.items():
        bad = make(issuer)
        for kind in KINDS:
            outcome = client.call(kind, "who", metadata=bearer(bad))
            assert (outcome.reason, outcome.code, outcome.answers) == (reason, reason.status, ()), (name, kind)
            # The caller learns the reason, and never the cause.
            assert outcome.details == reason.message


def test_the_reason_is_read_from_metadata_and_is_none_if_there_is_none() -> None:
    """All tests of this module read it from the errors of real calls."""
    assert reason_of(Refusal(Reason.MESH_STALE).trailing_metadata()) is Reason.MESH_STALE
    for nothing in (grpc.RpcError(), (), None, (("grpc-status-details-bin", b"\xff"),)):
        assert reason_of(nothing) is None


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), Reason.CREDENTIAL_MISSING),
        ((("authorization", "Basic YTpi"),), Reason.CREDENTIAL_MALFORMED),
        ((("authorization", "Bearer"),), Reason.CREDENTIAL_MALFORMED),
        ((("authorization", "Bearer "),), Reason.CREDENTIAL_MALFORMED),
        ((("authorization-bin", b"Bearer x"),), Reason.CREDENTIAL_MISSING),
        ((("authorization", "Bearer a"), ("authorization", "Bearer b")), Reason.CREDENTIAL_MALFORMED),
    ],
    ids=["missing", "basic", "bare", "empty", "binary", "twice"],
)
def test_metadata_without_exactly_one_bearer_credential_is_refused(
    client: Client, metadata: tuple[tuple[str, str | bytes], ...], reason: Reason
) -> None:
    for kind in KINDS:
        outcome = client.call(kind, "who", metadata=metadata)
        assert (outcome.reason, outcome.answers) == (reason, ()), kind


def test_a_valid_credential_beside_another_is_refused(client: Client, issuer: Issuer) -> None:
    """Two readers of the call could each take a different one of the two."""
    valid = ("authorization", f"Bearer {issuer.token()}")
    for metadata in ((valid, valid), (valid, ("authorization", "Bearer x")), (("authorization", "Bearer x"), valid)):
        assert client.call("Unary", "who", metadata=metadata).reason is Reason.CREDENTIAL_MALFORMED


def test_a_method_without_a_valid_rule_is_denied_to_valid_credentials(client: Client, issuer: Issuer) -> None:
    for method in ("Unruled", "Contradictory"):
        outcome = client.call(method, "who", metadata=bearer(issuer.token()))
        assert (outcome.reason, outcome.answers) == (Reason.METHOD_DENIED, ())


def test_a_public_method_serves_every_call_and_has_no_caller(client: Client, issuer: Issuer) -> None:
    """Also right after a call of alice in the same thread, whose caller must not be left over."""
    for _ in range(20):
        assert client.call("Unary", "who", metadata=bearer(issuer.token(sub="alice"))).answers == ("alice",)
        assert client.call("Public", "anonymous").answers == ("anonymous",)
        assert client.call("Public", "anonymous", metadata=bearer("rubbish")).answers == ("anonymous",)


@pytest.mark.parametrize(
    "scope",
    [EVERYONE, subject_scope("alice"), session_scope("session-1"), client_scope("app"), audience_scope("probe")],
)
def test_a_revoked_credential_is_refused_and_a_newer_one_is_not(
    client: Client, issuer: Issuer, node: MeshNode, scope: str
) -> None:
    old = issuer.token()
    assert client.call("Unary", "who", metadata=bearer(old)).answers == ("alice",)
    revision = issuer.revoke(scope)
    wait_until(lambda: node.bundle.revision >= revision)
    for kind in KINDS:
        assert client.call(kind, "who", metadata=bearer(old)).reason is Reason.CREDENTIAL_REVOKED, kind
    assert client.call("Unary", "who", metadata=bearer(issuer.token())).answers == ("alice",)


def test_a_revocation_does_not_affect_others(client: Client, issuer: Issuer, node: MeshNode) -> None:
    bob = issuer.token(sub="bob", sid="session-2", client_id="other-app")
    revisions = [issuer.revoke(scope) for scope in (subject_scope("alice"), session_scope("session-1"))]
    wait_until(lambda: node.bundle.revision >= max(revisions))
    for kind in KINDS:
        assert client.call(kind, "who", metadata=bearer(bob)).answers[0] == "bob"


def test_a_key_that_the_watch_has_not_delivered_yet_is_looked_up(
    client: Client, issuer: Issuer, node: MeshNode
) -> None:
    issuer.rotate()
    assert client.call("Unary", "who", metadata=bearer(issuer.token())).answers == ("alice",)
    del node


def test_a_cached_token_is_refused_after_its_key_was_removed(client: Client, issuer: Issuer, node: MeshNode) -> None:
    old, kid = issuer.token(), issuer.kid
    assert client.call("Unary", "who", metadata=bearer(old)).answers == ("alice",)
    issuer.rotate()
    issuer.remove_key(kid)
    wait_until(lambda: kid not in node.bundle.keys)
    assert client.call("Unary", "who", metadata=bearer(old)).reason is Reason.KEY_UNKNOWN
    assert client.call("Unary", "who", metadata=bearer(issuer.token())).answers == ("alice",)


def test_an_accepted_credential_is_refused_once_it_expires(client: Client, issuer: Issuer) -> None:
    token = issuer.token(exp=time.time() + 1.0)
    assert client.call("Unary", "who", metadata=bearer(token)).answers == ("alice",)
    wait_until(lambda: client.call("Unary", "who", metadata=bearer(token)).reason is Reason.CREDENTIAL_EXPIRED)
