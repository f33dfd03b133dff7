"""Bad credentials, each of them as good as an attacker could make it.

Some are made by an insider: signed with the mesh's own private key, which the story can open because it runs on the
machine where the key-encryption key lies. That is how a token gets to be expired, or of the wrong type, and yet truly
signed.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from authsvc.keys.vault import Vault, read_keks
from interceptors.errors import Reason
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.tokens.access_token import token_kid
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from interceptors.tokens.verification_key import read_key
from localmesh.demo.actors import Metadata, Person, bearer
from localmesh.demo.stage import Stage

__all__ = ["BadCredential", "bad_credentials"]

_HMAC_SHA256: Final = "HS256"


@dataclass(frozen=True, slots=True)
class BadCredential:
    """What is presented, and the reason that it has to be refused with."""

    name: str
    metadata: Metadata
    reason: Reason


@dataclass(frozen=True, slots=True)
class _Signing:
    """The mesh's own signing key, both halves."""

    kid: str
    algorithm: str
    private_key: Any
    public_pem: bytes


def bad_credentials(stage: Stage, good: Person, elsewhere: Person) -> list[BadCredential]:
    """The credentials, made from a good one, and from one that is good for another service only."""
    signing = _open_signing_key(stage, token_kid(good.token))
    return [
        *_damaged(good, elsewhere),
        *_by_an_insider(signing, jwt.decode(good.token, options={"verify_signature": False})),
        *_by_algorithm(signing, good),
    ]


def _damaged(good: Person, elsewhere: Person) -> list[BadCredential]:
    head, body, signature = good.token.split(".")
    claims = json.loads(_decode(body)) | {"sub": "admin", "scope": "shop.read shop.buy shop.admin"}
    flipped = bytes([_decode(signature)[0] ^ 1]) + _decode(signature)[1:]
    two = (*bearer(good.token), *bearer(elsewhere.token))
    guess = OpaqueToken.generate(OpaqueKind.SESSION).text()
    return [
        BadCredential("nothing at all", (), Reason.CREDENTIAL_MISSING),
        BadCredential("not a token", bearer("let-me-in"), Reason.CREDENTIAL_MALFORMED),
        BadCredential("another scheme", (("authorization", "Basic YWxpY2U6"),), Reason.CREDENTIAL_MALFORMED),
        BadCredential("altered claims", bearer(f"{head}.{_encode(claims)}.{signature}"), Reason.CREDENTIAL_INVALID),
        BadCredential("altered signature", bearer(f"{head}.{body}.{_text(flipped)}"), Reason.CREDENTIAL_INVALID),
        BadCredential("for another service", elsewhere.metadata, Reason.AUDIENCE_MISMATCH),
        BadCredential("a refresh token", bearer(good.credentials.refresh_token), Reason.CREDENTIAL_MALFORMED),
        BadCredential("a guessed session", bearer(guess), Reason.CREDENTIAL_INVALID),
        BadCredential("oversized", bearer(good.token + "A" * 4096), Reason.CREDENTIAL_TOO_LARGE),
        BadCredential("duplicated", two, Reason.CREDENTIAL_MALFORMED),
    ]


def _by_an_insider(signing: _Signing, claims: Mapping[str, Any]) -> list[BadCredential]:
    now = int(time.time())

    def signed(changes: Mapping[str, Any], *, typ: str = "at+jwt", **header: Any) -> Metadata:
        headers = {"kid": signing.kid, "typ": typ, **header}
        token = jwt.encode({**claims, **changes}, signing.private_key, algorithm=signing.algorithm, headers=headers)
        return bearer(token)

    long_ago = {"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}
    key_of_the_attacker = {"kty": "OKP", "crv": "Ed25519", "x": _text(secrets.token_bytes(32))}
    return [
        BadCredential("expired", signed(long_ago), Reason.CREDENTIAL_EXPIRED),
        BadCredential("not valid yet", signed({"nbf": now + 3600}), Reason.CREDENTIAL_INVALID),
        BadCredential("of another issuer", signed({"iss": "https://evil.example"}), Reason.CREDENTIAL_INVALID),
        BadCredential("of the wrong type", signed({}, typ="JWT"), Reason.CREDENTIAL_INVALID),
        BadCredential("with a key in its header", signed({}, jwk=key_of_the_attacker), Reason.CREDENTIAL_INVALID),
        BadCredential("without a subject", signed({"sub": None}), Reason.CREDENTIAL_INVALID),
    ]


def _by_algorithm(signing: _Signing, good: Person) -> list[BadCredential]:
    body = good.token.split(".")[1]
    claims = jwt.decode(good.token, options={"verify_signature": False})
    own_key = Ed25519PrivateKey.generate()
    forged = jwt.encode(claims, own_key, algorithm="EdDSA", headers={"kid": signing.kid, "typ": "at+jwt"})
    unknown = jwt.encode(claims, own_key, algorithm="EdDSA", headers={"kid": "no-such-key", "typ": "at+jwt"})
    unsigned = f"{_encode({'alg': 'none', 'kid': signing.kid, 'typ': 'at+jwt'})}.{body}."
    return [
        BadCredential("forged with another key", bearer(forged), Reason.CREDENTIAL_INVALID),
        BadCredential("of an unknown key", bearer(unknown), Reason.KEY_UNKNOWN),
        BadCredential("alg: none", bearer(unsigned), Reason.CREDENTIAL_INVALID),
        BadCredential("HS256 with the public key", bearer(_hmac(signing, body)), Reason.CREDENTIAL_INVALID),
    ]


def _hmac(signing: _Signing, body: str) -> str:
    """The old confusion: the public key, which everybody has, taken for a shared secret (RFC 8725 section 2.1)."""
    import hashlib
    import hmac

    message = f"{_encode({'alg': _HMAC_SHA256, 'kid': signing.kid, 'typ': 'at+jwt'})}.{body}"
    return f"{message}.{_text(hmac.new(signing.public_pem, message.encode(), hashlib.sha256).digest())}"


def _open_signing_key(stage: Stage, kid: str) -> _Signing:
    settings = stage.etcd_settings()
    layout = Layout(settings.prefix)
    with EtcdClient(settings) as etcd:
        found = etcd.read(layout.key(kid), layout.sealed_key(kid)).values
    key = read_key(found[layout.key(kid)].value)
    vault = Vault(*read_keks(file=Path(stage.profile["kek_file"])))
    private_key = vault.open(kid, found[layout.sealed_key(kid)].value, key.algorithm)
    public_pem = private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _Signing(kid, key.algorithm, private_key, public_pem)


def _encode(value: Mapping[str, Any]) -> str:
    return _text(json.dumps(value).encode())


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
