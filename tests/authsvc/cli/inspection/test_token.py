"""Inspection shows the content of any token, and judges the token as a node does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from authsvc.cli.inspection.claims import CLAIM_MEANINGS, HEADER_MEANINGS
from authsvc.cli.inspection.token import (
    DEFAULT_LEEWAY_SECONDS,
    DEFAULT_MAX_CREDENTIAL_BYTES,
    Check,
    Kind,
    Verdict,
    check_locally,
    check_signature,
    conclude,
    decode,
)
from credmesh.store.v1 import mesh_pb2
from interceptors.errors import Refusal
from interceptors.settings import MeshSettings
from interceptors.tokens import base64url
from interceptors.tokens.access_token import TokenReader
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from interceptors.tokens.token_rules import REQUIRED_TEXT_CLAIMS, REQUIRED_TIME_CLAIMS
from interceptors.tokens.verification_key import VerificationKey
from localmesh.forged_tokens import with_claims

NOW = 1_764_000_000.0
ISSUER = "https://auth.test"
SIGNING = Ed25519PrivateKey.generate()
KEYS = {
    "k1": VerificationKey("k1", "EdDSA", SIGNING.public_key(), mesh_pb2.VerificationKey.STATE_ACTIVE),
}
CLAIMS_OF_ALICE: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "alice",
    "aud": ["orders", "storefront"],
    "exp": NOW + 200,
    "nbf": NOW - 100,
    "iat": NOW - 100,
    "jti": "j1",
    "sid": "s1",
    "client_id": "password",
    "scope": "shop.read",
    "epoch": 7,
}


def made(claims: Mapping[str, Any] | None = None, *, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """A token of alice with changed claims. A claim that is None is left out."""
    whole = {**CLAIMS_OF_ALICE, **(claims or {}), **changes}
    return jwt.encode(
        {name: value for name, value in whole.items() if value is not None},
        SIGNING,
        "EdDSA",
        {"kid": "k1", "typ": "at+jwt", **(header or {})},
    )


def raw(header: object, claims: object) -> str:
    """A token with any header and payload, and a forged signature."""
    parts = (json.dumps(part) if not isinstance(part, str) else part for part in (header, claims))
    return ".".join(base64url.encode(part.encode()) for part in parts) + ".c2ln"


def verdicts(checks: list[Check]) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in checks}


def reason_for(checks: list[Check], name: str) -> str:
    return next(check.text for check in checks if check.name == name)


def test_a_good_token_passes_every_local_check() -> None:
    checks = check_locally(decode(made()), now=NOW, issuer=ISSUER, audience="orders")
    assert verdicts(checks) == dict.fromkeys(["form", "header", "claims", "issuer", "time", "audience"], Verdict.GOOD)


def test_a_token_is_decoded_without_its_signature() -> None:
    token = made()
    decoded = decode(token)
    assert decoded.kind is Kind.ACCESS_TOKEN
    assert decoded.claims["sub"] == "alice"
    assert decoded.header == {"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}
    assert token.rpartition(".")[2] not in repr(decoded)


@pytest.mark.parametrize(
    ("changes", "check", "why"),
    [
        ({"exp": NOW - 180}, "time", "expired 3 min ago"),
        ({"nbf": NOW + 600}, "time", "not valid for another 10 min"),
        ({"exp": None}, "time", "it has no expiry"),
        ({"iss": "https://elsewhere.test"}, "issuer", "issued by https://elsewhere.test"),
        ({"aud": "storefront"}, "audience", "it is for storefront, not for orders"),
        ({"sub": None, "scope": 3}, "claims", "sub, scope: missing or of the wrong type"),
        ({"epoch": True}, "claims", "epoch"),
    ],
)
def test_a_check_that_fails_says_why(changes: dict[str, Any], check: str, why: str) -> None:
    checks = check_locally(decode(made(changes)), now=NOW, issuer=ISSUER, audience="orders")
    assert verdicts(checks)[check] is Verdict.BAD
    assert why in reason_for(checks, check)
    assert conclude(checks).verdict is Verdict.BAD


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"alg": "none"}, "not signed at all"),
        ({"alg": "HS256", "kid": "k1", "typ": "at+jwt"}, "every verifier could forge tokens"),
        ({"alg": "EdDSA", "kid": "k1", "typ": "JWT"}, "not an access token"),
        ({"alg": "EdDSA", "kid": "k1", "typ": "at+jwt", "jku": "https://evil.test"}, "which attacks use: jku"),
        ({"alg": "EdDSA", "typ": "at+jwt"}, "kid: missing"),
        ({"alg": ["EdDSA"], "kid": 3, "typ": None}, "alg, kid, typ: missing"),
    ],
)
def test_a_header_that_every_node_refuses_is_explained(header: dict[str, Any], why: str) -> None:
    checks = check_locally(decode(raw(header, CLAIMS_OF_ALICE)), now=NOW, issuer=ISSUER)
    assert verdicts(checks)["header"] is Verdict.BAD
    assert why in reason_for(checks, "header")


def test_without_the_meshs_issuer_the_token_is_unchecked_not_good() -> None:
    checks = check_locally(decode(made()), now=NOW, issuer="")
    assert verdicts(checks)["issuer"] is Verdict.UNKNOWN
    assert conclude(checks).verdict is Verdict.UNKNOWN


def test_the_leeway_of_nodes_applies() -> None:
    checks = check_locally(decode(made(exp=NOW - 2)), now=NOW, issuer=ISSUER)
    assert verdicts(checks)["time"] is Verdict.GOOD
    assert "expired 2 s ago, within the 5 s of clock skew that nodes tolerate" in reason_for(checks, "time")


def test_a_signature_is_checked_with_the_meshs_key() -> None:
    token = made()
    assert check_signature(token, decode(token), KEYS).verdict is Verdict.GOOD


def test_the_signature_of_an_altered_token_is_bad() -> None:
    forged = with_claims(made(), sub="mallory")
    found = check_signature(forged, decode(forged), KEYS)
    assert found.verdict is Verdict.BAD
    assert "signature" in found.text


def test_a_token_of_another_key_names_that_key() -> None:
    """It does not list the mesh's keys: the headline would take many lines."""
    token = made(header={"kid": "old"})
    found = check_signature(token, decode(token), KEYS)
    assert found.verdict is Verdict.BAD
    assert "the mesh has no key old: it was removed" in found.text
    assert "k1" not in found.text


def test_a_token_without_key_or_issuer_is_explained() -> None:
    token = raw({"alg": "EdDSA", "typ": "at+jwt"}, {"sub": "alice"})
    found = [*check_locally(decode(token), now=NOW, issuer=ISSUER), check_signature(token, decode(token), KEYS)]
    assert reason_for(found, "signature").startswith("it names no key")
    assert reason_for(found, "issuer") == f"it has no issuer (iss); the mesh's is {ISSUER}"
    assert not any("None" in check.text for check in found)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (OpaqueKind.SESSION, Kind.SESSION_TOKEN),
        (OpaqueKind.REFRESH, Kind.REFRESH_TOKEN),
        (OpaqueKind.CLIENT_SECRET, Kind.CLIENT_SECRET),
    ],
)
def test_an_opaque_token_shows_its_kind_and_session_and_never_its_secret(kind: OpaqueKind, found: Kind) -> None:
    opaque = OpaqueToken.generate(kind)
    decoded = decode(opaque.text())
    assert decoded.kind is found
    assert decoded.session_id == ("" if kind is OpaqueKind.CLIENT_SECRET else opaque.session_id)
    assert opaque.text()[30:] not in repr(decoded)
    assert check_locally(decoded, now=NOW, issuer=ISSUER)[0].verdict is Verdict.GOOD


def test_a_damaged_opaque_token_is_found_by_its_checksum() -> None:
    text = OpaqueToken.generate(OpaqueKind.SESSION).text()
    for broken in (text[:-1], text[:20] + ("A" if text[20] != "A" else "B") + text[21:]):
        checks = check_locally(decode(broken), now=NOW, issuer=ISSUER)
        assert verdicts(checks) == {"form": Verdict.BAD}


def test_refresh_tokens_and_client_secrets_are_no_credentials_for_calls() -> None:
    refresh, secret = (
        check_locally(decode(OpaqueToken.generate(kind).text()), now=NOW, issuer=ISSUER)
        for kind in (OpaqueKind.REFRESH, OpaqueKind.CLIENT_SECRET)
    )
    assert "services refuse it" in reason_for(refresh, "use")
    assert conclude(refresh).verdict is Verdict.UNKNOWN
    assert conclude(secret).verdict is Verdict.BAD


@given(st.text(max_size=200))
def test_any_text_is_inspected_without_an_error(text: str) -> None:
    decoded = decode(text)
    assert conclude(check_locally(decoded, now=NOW, issuer=ISSUER, audience="orders")).verdict is Verdict.BAD


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from([*HEADER_MEANINGS, "other"]), _json),
    st.dictionaries(st.sampled_from([*CLAIM_MEANINGS, "other"]), _json),
)
def test_members_of_any_type_are_inspected_without_an_error(header: dict[str, Any], claims: dict[str, Any]) -> None:
    token = raw(header, claims)
    decoded = decode(token)
    conclude(check_locally(decoded, now=NOW, issuer=ISSUER, audience="orders"))
    assert check_signature(token, decoded, KEYS).verdict is Verdict.BAD


@pytest.mark.parametrize(
    "payload",
    ["[" * 100_000, '{"exp": 1' + "0" * 400 + "}", '{"exp": 1' + "0" * 5000 + "}", '{"exp": 1e999, "nbf": NaN}', "3"],
)
def test_hostile_json_is_inspected_without_an_error(payload: str) -> None:
    decoded = decode(raw({"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}, payload))
    assert conclude(check_locally(decoded, now=NOW, issuer=ISSUER)).verdict is Verdict.BAD
    json.dumps(decoded.claims, allow_nan=False)


def test_the_auth_services_answer_overrides_all_but_the_audience() -> None:
    bad_time = Check("time", Verdict.BAD, "expired")
    accepted = Check("now", Verdict.GOOD, "accepted")
    assert conclude([bad_time, accepted]).verdict is Verdict.GOOD
    assert conclude([Check("audience", Verdict.BAD, "not for it"), accepted]).why == "not for it"
    assert conclude([Check("time", Verdict.GOOD, ""), Check("now", Verdict.BAD, "revoked")]).why == "revoked"
    assert conclude([Check("now", Verdict.UNKNOWN, "no server answers")]).verdict is Verdict.UNKNOWN


def test_every_claim_and_header_member_has_a_meaning_and_a_source() -> None:
    assert CLAIMS_OF_ALICE.keys() <= CLAIM_MEANINGS.keys()
    assert all(meaning.text and meaning.source for meaning in (*CLAIM_MEANINGS.values(), *HEADER_MEANINGS.values()))


@pytest.mark.parametrize("name", [*REQUIRED_TEXT_CLAIMS, *REQUIRED_TIME_CLAIMS, "scope", "aud", "epoch"])
def test_inspection_and_nodes_require_the_same_claims(name: str) -> None:
    token = made({name: None})
    assert verdicts(check_locally(decode(token), now=NOW, issuer=ISSUER))["claims"] is Verdict.BAD
    with pytest.raises(Refusal):
        TokenReader(ISSUER, KEYS).read(token)


def test_the_limits_that_are_shown_are_the_defaults_of_nodes() -> None:
    defaults = {field.name: field.default for field in fields(MeshSettings)}
    assert defaults["leeway"] == DEFAULT_LEEWAY_SECONDS
    assert defaults["max_credential_bytes"] == DEFAULT_MAX_CREDENTIAL_BYTES
