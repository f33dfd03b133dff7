"""Forged access tokens, each as good as an attacker could make it. The demo, chaos and the tests use them.

Most are made from a valid token, which the attacker has seen. `StolenKey` signs tokens with the mesh's own private key:
a token can then be expired, or of the wrong type, under a correct signature.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authsvc.keys.algorithms import PrivateKey, generate_private_key, message_signer
from authsvc.keys.vault import Vault, read_keks
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from interceptors.tokens import base64url
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from interceptors.tokens.verification_key import read_key

__all__ = [
    "StolenKey",
    "claims_of",
    "compact_jws",
    "header_of",
    "signed_by_another_key",
    "signed_jws",
    "signed_with_public_key",
    "unsigned",
    "with_claims",
    "with_damaged_signature",
    "with_guessed_secret",
    "with_header",
]


def compact_jws(header: Any, payload: Any, signature: bytes) -> str:
    """A JWS compact serialization (RFC 7515 section 7.1) of any JSON values; no rule of a token is checked."""
    return f"{_signing_input(header, payload)}.{base64url.encode(signature)}"


def signed_jws(header: Any, payload: Any, sign: Callable[[bytes], bytes]) -> str:
    """As `compact_jws`, with the signature that `sign` makes of the signing input."""
    return compact_jws(header, payload, sign(_signing_input(header, payload).encode()))


def header_of(token: str) -> dict[str, Any]:
    """The header of a token, which is not verified."""
    header: dict[str, Any] = json.loads(base64url.decode(token.split(".")[0]))
    return header


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token, which is not verified."""
    claims: dict[str, Any] = json.loads(base64url.decode(token.split(".")[1]))
    return claims


def with_claims(token: str, **changes: Any) -> str:
    """The token with other claims under its old signature."""
    return compact_jws(header_of(token), {**claims_of(token), **changes}, _signature_of(token))


def with_header(token: str, **changes: Any) -> str:
    """The token with other header members under its old signature."""
    return compact_jws({**header_of(token), **changes}, claims_of(token), _signature_of(token))


def with_damaged_signature(token: str) -> str:
    """The token with one bit of its signature flipped."""
    signing_input, _, _ = token.rpartition(".")
    signature = _signature_of(token)
    return f"{signing_input}.{base64url.encode(bytes([signature[0] ^ 1]) + signature[1:])}"


def unsigned(token: str) -> str:
    """The token with `alg: none` and no signature (RFC 8725 section 2.1)."""
    return compact_jws({**header_of(token), "alg": "none"}, claims_of(token), b"")


def signed_with_public_key(token: str, public_key: bytes) -> str:
    """The token with an HS256 signature whose secret is the mesh's public key.

    A verifier that lets the header choose the algorithm takes the public key for a shared secret (RFC 8725, 2.1).
    """
    header = {**header_of(token), "alg": "HS256"}
    return signed_jws(header, claims_of(token), lambda text: hmac.digest(public_key, text, hashlib.sha256))


def signed_by_another_key(token: str, **header: Any) -> str:
    """The token signed by a new key of the same algorithm. `header` changes members, such as `kid`."""
    algorithm = header_of(token)["alg"]
    sign = message_signer(generate_private_key(algorithm), algorithm)
    return signed_jws({**header_of(token), **header}, claims_of(token), sign)


def with_guessed_secret(kind: OpaqueKind, session_id: str | None = None) -> str:
    """An opaque token with a random secret. Without a session's id, that is random too."""
    return OpaqueToken.generate(kind, session_id).text()


@dataclass(frozen=True, slots=True)
class StolenKey:
    """A signing key of the mesh, as an insider who has the key-encryption key can open it."""

    kid: str
    algorithm: str
    private_key: PrivateKey = field(repr=False)

    @classmethod
    def read(cls, settings: EtcdSettings, *, kek_file: Path, kid: str) -> StolenKey:
        """Opens a sealed signing key that etcd holds."""
        layout = Layout(settings.prefix)
        with EtcdClient(settings) as etcd:
            records = etcd.read(layout.key(kid), layout.sealed_key(kid)).values
        algorithm = read_key(records[layout.key(kid)].value).algorithm
        vault = Vault(*read_keks(file=kek_file))
        return cls(kid, algorithm, vault.open(kid, records[layout.sealed_key(kid)].value, algorithm))

    @property
    def public_pem(self) -> bytes:
        """The public half, as PEM."""
        return self.private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, claims: Mapping[str, Any], **header: Any) -> str:
        """A correctly signed token with these claims. `header` changes or adds members."""
        members = {"alg": self.algorithm, "kid": self.kid, "typ": "at+jwt", **header}
        return signed_jws(members, claims, message_signer(self.private_key, self.algorithm))


def _signing_input(header: Any, payload: Any) -> str:
    return ".".join(base64url.encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, payload))


def _signature_of(token: str) -> bytes:
    return base64url.decode(token.rpartition(".")[2])
