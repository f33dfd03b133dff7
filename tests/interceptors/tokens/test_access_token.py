"""Reading access tokens: a token that is not exactly as the auth service writes it is refused with a reason."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from credmesh.store.v1 import mesh_pb2
from interceptors import Reason, Refusal
from interceptors.stored_records import RecordError
from interceptors.tokens import base64url
from interceptors.tokens.access_token import TokenReader, UnknownKey, check_times
from interceptors.tokens.verification_key import VerificationKey, read_key
from localmesh import forged_tokens
from tests.support.probe.issuer import ISSUER, claims, key_record

PRIVATE = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
KEY = read_key(key_record("k1", PRIVATE).SerializeToString())
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def reader() -> TokenReader:
    return TokenReader(ISSUER, {"k1": KEY})


def sign(payload: Any = None, *, key: Ed25519PrivateKey = PRIVATE, **header: Any) -> str:
    headers = {"alg": "EdDSA", "kid": "k1", "typ": "at+jwt", **header}
    headers = {name: value for name, value in headers.items() if value is not None}
    body = claims() if payload is None else payload
    return forged_tokens.signed_jws(headers, body, key.sign)


GOOD = sign(claims(exp=4e9, nbf=0, iat=0, jti="j", session_exp=4e9))


def refusal_of(token: str) -> Reason:
    with pytest.raises(Refusal) as caught:
        reader().read(token)
    return caught.value.reason


def test_a_good_token_gives_its_caller() -> None:
    token = reader().read(sign(claims(sub="alice", sid="s", act={"sub": "robot"}, epoch=7)))
    assert token.caller.subject == "alice"
    assert token.caller.session_id == "s"
    assert token.caller.actor == "robot"
    assert token.caller.epoch == 7
    assert token.caller.scopes == {"probe.use", "probe.other"}
    assert token.kid == "k1"


def test_pyjwts_own_tokens_are_read() -> None:
    """An independent writer has to agree with this project's reader."""
    made = jwt.encode(claims(sub="bob"), PRIVATE, algorithm="EdDSA", headers={"kid": "k1", "typ": "at+jwt"})
    assert reader().read(made).caller.subject == "bob"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        pytest.param(sign(key=OTHER), Reason.CREDENTIAL_INVALID, id="signed-by-another-key"),
        pytest.param(sign(typ="JWT"), Reason.CREDENTIAL_INVALID, id="an-id-token"),
        pytest.param(sign(typ=None), Reason.CREDENTIAL_INVALID, id="no-typ"),
        pytest.param(sign(alg="ES256"), Reason.CREDENTIAL_INVALID, id="another-algorithm-than-the-keys"),
        pytest.param(sign(alg="none"), Reason.CREDENTIAL_INVALID, id="alg-none"),
        pytest.param(forged_tokens.unsigned(sign()), Reason.CREDENTIAL_INVALID, id="alg-none-unsigned"),
        pytest.param(sign(crit=["exp"]), Reason.CREDENTIAL_INVALID, id="crit"),
        pytest.param(sign(jwk={"kty": "OKP"}), Reason.CREDENTIAL_INVALID, id="jwk"),
        pytest.param(sign(jku="https://evil.test"), Reason.CREDENTIAL_INVALID, id="jku"),
        pytest.param(sign(x5u="https://evil.test"), Reason.CREDENTIAL_INVALID, id="x5u"),
        pytest.param(sign(kid=None), Reason.CREDENTIAL_INVALID, id="no-kid"),
        pytest.param(sign(kid=7), Reason.CREDENTIAL_INVALID, id="kid-a-number"),
        pytest.param(sign(kid="k" * 200), Reason.CREDENTIAL_INVALID, id="kid-too-long"),
        pytest.param(sign(kid="\ud800"), Reason.CREDENTIAL_INVALID, id="kid-half-a-surrogate-pair"),
        pytest.param(sign(kid="ключ"), Reason.CREDENTIAL_INVALID, id="kid-not-ascii"),
        pytest.param(sign(kid="k\n1"), Reason.CREDENTIAL_INVALID, id="kid-two-lines"),
        pytest.param(sign(kid="k" * 600), Reason.CREDENTIAL_MALFORMED, id="header-too-long"),
        pytest.param(sign(["a list"]), Reason.CREDENTIAL_MALFORMED, id="payload-not-an-object"),
        pytest.param(sign(claims(iss="https://other.test")), Reason.CREDENTIAL_INVALID, id="another-issuer"),
        pytest.param(sign(claims(sub=None)), Reason.CREDENTIAL_INVALID, id="no-sub"),
        pytest.param(sign(claims(sub="")), Reason.CREDENTIAL_INVALID, id="empty-sub"),
        pytest.param(sign(claims(aud=None)), Reason.CREDENTIAL_INVALID, id="no-aud"),
        pytest.param(sign(claims(aud=[7])), Reason.CREDENTIAL_INVALID, id="aud-of-numbers"),
        pytest.param(sign(claims(exp=None)), Reason.CREDENTIAL_INVALID, id="no-exp"),
        pytest.param(sign(claims(exp="tomorrow")), Reason.CREDENTIAL_INVALID, id="exp-a-text"),
        pytest.param(sign(claims(exp=True)), Reason.CREDENTIAL_INVALID, id="exp-a-bool"),
        pytest.param(sign(claims(exp=float("inf"))), Reason.CREDENTIAL_INVALID, id="exp-infinite"),
        pytest.param(sign(claims(nbf=None)), Reason.CREDENTIAL_INVALID, id="no-nbf"),
        pytest.param(sign(claims(iat=None)), Reason.CREDENTIAL_INVALID, id="no-iat"),
        pytest.param(sign(claims(jti=None)), Reason.CREDENTIAL_INVALID, id="no-jti"),
        pytest.param(sign(claims(client_id=None)), Reason.CREDENTIAL_INVALID, id="no-client_id"),
        pytest.param(sign(claims(scope=["a"])), Reason.CREDENTIAL_INVALID, id="scope-a-list"),
        pytest.param(sign(claims(epoch=None)), Reason.CREDENTIAL_INVALID, id="no-epoch"),
        pytest.param(sign(claims(epoch="9")), Reason.CREDENTIAL_INVALID, id="epoch-a-text"),
        pytest.param(sign(claims(epoch=True)), Reason.CREDENTIAL_INVALID, id="epoch-a-bool"),
        pytest.param(sign(claims(epoch=-1)), Reason.CREDENTIAL_INVALID, id="epoch-negative"),
        pytest.param(sign(claims(sid=7)), Reason.CREDENTIAL_INVALID, id="sid-a-number"),
        pytest.param("", Reason.CREDENTIAL_MALFORMED, id="empty"),
        pytest.param("a.b", Reason.CREDENTIAL_MALFORMED, id="two-parts"),
        pytest.param("a.b.c.d", Reason.CREDENTIAL_MALFORMED, id="four-parts"),
        pytest.param("a.b.c.d.e", Reason.CREDENTIAL_MALFORMED, id="a-jwe"),
        pytest.param("!.b.c", Reason.CREDENTIAL_MALFORMED, id="not-base64"),
        pytest.param(base64url.encode(b"[" * 380) + ".b.c", Reason.CREDENTIAL_MALFORMED, id="nested-deeply"),
        pytest.param(sign() + "=", Reason.CREDENTIAL_MALFORMED, id="padded"),
        pytest.param(sign() + "\n", Reason.CREDENTIAL_MALFORMED, id="a-newline"),
    ],
)
def test_a_token_that_is_not_exactly_valid_is_refused(token: str, reason: Reason) -> None:
    assert refusal_of(token) is reason


def test_the_public_key_as_an_hmac_secret_is_refused() -> None:
    """RFC 8725 section 2.1: a verifier that trusts the header's `alg` uses the public key as a shared secret."""
    assert refusal_of(forged_tokens.signed_with_public_key(sign(), PUBLIC_PEM)) is Reason.CREDENTIAL_INVALID


def test_an_unknown_kid_raises_an_error_that_names_it() -> None:
    with pytest.raises(UnknownKey) as caught:
        reader().read(sign(kid="k2"))
    assert caught.value.kid == "k2"


def test_a_known_header_still_needs_a_valid_signature() -> None:
    one = reader()
    good = sign()
    assert one.read(good).kid == "k1"
    head, _, tail = sign(key=OTHER).split(".")
    with pytest.raises(Refusal):
        one.read(f"{head}.{good.split('.')[1]}.{tail}")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_altered_token_is_accepted(data: st.DataObject) -> None:
    """Any change of any character, including the left-over bits of base64url that lenient decoders ignore."""
    token = GOOD
    at = data.draw(st.integers(0, len(token) - 1))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ é"
    character = data.draw(st.sampled_from([one for one in alphabet if one != token[at]]))
    with pytest.raises((Refusal, UnknownKey)):
        reader().read(token[:at] + character + token[at + 1 :])


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.binary(max_size=60), min_size=3, max_size=3).map(
            lambda parts: ".".join(base64url.encode(part) for part in parts)
        ),
    )
)
def test_no_text_crashes_the_reader(text: str) -> None:
    with pytest.raises((Refusal, UnknownKey)):
        reader().read(text)


@given(st.integers(-100, 100), st.integers(0, 30))
def test_a_token_is_valid_from_nbf_to_exp_within_the_leeway(offset: int, leeway: int) -> None:
    token = reader().read(sign(claims(nbf=1000, exp=1060)))
    now = 1000 + offset
    good = 1000 - leeway <= now < 1060 + leeway
    if good:
        check_times(token, now, leeway)
    else:
        with pytest.raises(Refusal) as caught:
            check_times(token, now, leeway)
        late = now >= 1060 + leeway
        assert caught.value.reason is (Reason.CREDENTIAL_EXPIRED if late else Reason.CREDENTIAL_INVALID)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": 0},
        {"algorithm": "HS256"},
        {"algorithm": "ES256"},
        {"kid": ""},
        {"public_key": b"not a key"},
    ],
    ids=str,
)
def test_a_key_record_that_cannot_be_trusted_is_refused(change: dict[str, Any]) -> None:
    record = key_record("k1", PRIVATE)
    for name, value in change.items():
        setattr(record, name, value)
    with pytest.raises(RecordError):
        read_key(record.SerializeToString())


def test_es256_signatures_verify_in_jws_form() -> None:
    """A JWS has r and s concatenated (RFC 7518 section 3.4), not in DER."""
    private = generate_private_key(SECP256R1())
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    record = mesh_pb2.VerificationKey(format=1, kid="e1", algorithm="ES256", public_key=public)
    key: VerificationKey = read_key(record.SerializeToString())
    made = jwt.encode(claims(), private, algorithm="ES256", headers={"kid": "e1", "typ": "at+jwt"})
    assert TokenReader(ISSUER, {"e1": key}).read(made).kid == "e1"
