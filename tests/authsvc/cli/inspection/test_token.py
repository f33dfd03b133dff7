"""What a token says is shown whoever wrote it; whether it is good is decided as a node decides it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from authsvc.cli.inspection.claims import CLAIMS, HEADER
from authsvc.cli.inspection.token import Check, Kind, Verdict, check_keys, check_locally, conclude, decode
from credmesh.store.v1 import mesh_pb2
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from interceptors.tokens.verification_key import VerificationKey

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
    """A token of alice's with changes; a claim that is None is left out."""
    whole = {**CLAIMS_OF_ALICE, **(claims or {}), **changes}
    return jwt.encode(
        {name: value for name, value in whole.items() if value is not None},
        SIGNING,
        "EdDSA",
        {"kid": "k1", "typ": "at+jwt", **(header or {})},
    )


def raw(header: object, claims: object) -> str:
    """A token of whatever is given, signed by nobody."""
    parts = (json.dumps(part) if not isinstance(part, str) else part for part in (header, claims))
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts) + ".c2ln"


def verdicts(checks: list[Check]) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in checks}


def reason_for(checks: list[Check], name: str) -> str:
    return next(check.text for check in checks if check.name == name)


def test_a_good_token_passes_every_check_that_needs_nobody() -> None:
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
        ({"exp": None}, "time", "does not say when it expires"),
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
        ({"alg": "HS256", "kid": "k1", "typ": "at+jwt"}, "whoever verifies could also forge"),
        ({"alg": "EdDSA", "kid": "k1", "typ": "JWT"}, "no access token"),
        ({"alg": "EdDSA", "kid": "k1", "typ": "at+jwt", "jku": "https://evil.test"}, "never has jku"),
        ({"alg": "EdDSA", "typ": "at+jwt"}, "kid: missing"),
        ({"alg": ["EdDSA"], "kid": 3, "typ": None}, "alg, kid, typ: missing"),
    ],
)
def test_a_header_that_no_node_takes_is_named(header: dict[str, Any], why: str) -> None:
    checks = check_locally(decode(raw(header, CLAIMS_OF_ALICE)), now=NOW, issuer=ISSUER)
    assert verdicts(checks)["header"] is Verdict.BAD
    assert why in reason_for(checks, "header")


def test_an_unknown_issuer_is_said_to_be_unchecked_not_good() -> None:
    checks = check_locally(decode(made()), now=NOW, issuer="")
    assert verdicts(checks)["issuer"] is Verdict.UNKNOWN
    assert conclude(checks).verdict is Verdict.UNKNOWN


def test_the_leeway_of_nodes_counts_here_too() -> None:
    checks = check_locally(decode(made(exp=NOW - 2)), now=NOW, issuer=ISSUER)
    assert verdicts(checks)["time"] is Verdict.GOOD
    assert "expired 2 s ago, within the 5 s that nodes forgive" in reason_for(checks, "time")


def test_a_signature_is_checked_with_the_meshs_key() -> None:
    token = made()
    assert check_keys(token, decode(token), KEYS).verdict is Verdict.GOOD


def test_a_token_that_was_altered_fails_by_its_signature() -> None:
    head, body, signature = made().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["sub"] = "mallory"
    forged = ".".join((head, base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode(), signature))
    found = check_keys(forged, decode(forged), KEYS)
    assert found.verdict is Verdict.BAD
    assert "signature" in found.text


def test_a_token_of_another_key_names_that_key() -> None:
    """And not all of the mesh's, which would make a headline of many lines."""
    token = made(header={"kid": "old"})
    found = check_keys(token, decode(token), KEYS)
    assert found.verdict is Verdict.BAD
    assert "key old is not one of the mesh's: it was removed" in found.text
    assert "k1" not in found.text


def test_a_token_that_names_no_key_or_issuer_is_said_to_name_none() -> None:
    token = raw({"alg": "EdDSA", "typ": "at+jwt"}, {"sub": "alice"})
    found = [*check_locally(decode(token), now=NOW, issuer=ISSUER), check_keys(token, decode(token), KEYS)]
    assert reason_for(found, "signature").startswith("it names no key")
    assert reason_for(found, "issuer") == f"it names no issuer (iss), and this mesh's is {ISSUER}"
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


def test_an_opaque_token_that_was_not_copied_whole_fails_by_its_checksum() -> None:
    text = OpaqueToken.generate(OpaqueKind.SESSION).text()
    for broken in (text[:-1], text[:20] + ("A" if text[20] != "A" else "B") + text[21:]):
        checks = check_locally(decode(broken), now=NOW, issuer=ISSUER)
        assert verdicts(checks) == {"form": Verdict.BAD}


def test_a_refresh_token_is_said_to_be_for_the_auth_service_and_a_clients_secret_for_no_call() -> None:
    refresh, secret = (
        check_locally(decode(OpaqueToken.generate(kind).text()), now=NOW, issuer=ISSUER)
        for kind in (OpaqueKind.REFRESH, OpaqueKind.CLIENT_SECRET)
    )
    assert "services refuse it" in reason_for(refresh, "use")
    assert conclude(refresh).verdict is Verdict.UNKNOWN
    assert conclude(secret).verdict is Verdict.BAD


@given(st.text(max_size=200))
def test_any_text_is_looked_into_without_an_error(text: str) -> None:
    decoded = decode(text)
    assert conclude(check_locally(decoded, now=NOW, issuer=ISSUER, audience="orders")).verdict is Verdict.BAD


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from([*HEADER, "other"]), _json),
    st.dictionaries(st.sampled_from([*CLAIMS, "other"]), _json),
)
def test_any_members_of_any_type_are_looked_into_without_an_error(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    token = raw(header, claims)
    decoded = decode(token)
    conclude(check_locally(decoded, now=NOW, issuer=ISSUER, audience="orders"))
    assert check_keys(token, decoded, KEYS).verdict is Verdict.BAD


@pytest.mark.parametrize(
    "payload",
    ["[" * 100_000, '{"exp": 1' + "0" * 400 + "}", '{"exp": 1' + "0" * 5000 + "}", '{"exp": 1e999, "nbf": NaN}', "3"],
)
def test_hostile_json_is_looked_into_without_an_error(payload: str) -> None:
    decoded = decode(raw({"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}, payload))
    assert conclude(check_locally(decoded, now=NOW, issuer=ISSUER)).verdict is Verdict.BAD
    json.dumps(decoded.claims, allow_nan=False)


def test_the_auth_services_word_outweighs_the_rest_but_for_the_audience() -> None:
    bad_time = Check("time", Verdict.BAD, "expired")
    accepted = Check("now", Verdict.GOOD, "accepted")
    assert conclude([bad_time, accepted]).verdict is Verdict.GOOD
    assert conclude([Check("audience", Verdict.BAD, "not for it"), accepted]).why == "not for it"
    assert conclude([Check("time", Verdict.GOOD, ""), Check("now", Verdict.BAD, "revoked")]).why == "revoked"
    assert conclude([Check("now", Verdict.UNKNOWN, "nobody answers")]).verdict is Verdict.UNKNOWN


def test_the_glossary_knows_every_claim_of_ours() -> None:
    assert CLAIMS_OF_ALICE.keys() <= CLAIMS.keys()
    assert all(meaning.text and meaning.source for meaning in (*CLAIMS.values(), *HEADER.values()))
