"""The signing algorithms: generating, serializing and using a private key of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from jwt.algorithms import get_default_algorithms

from interceptors.errors import PicklableError

__all__ = [
    "DEFAULT_ALGORITHM",
    "PrivateKey",
    "UnknownAlgorithm",
    "generate_private_key",
    "load_private_key",
    "message_signer",
    "private_der",
    "public_der",
    "require_known",
]

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey

RSA_BITS: Final = 3072
"""As strong as P-256 and Ed25519 (NIST SP 800-57 part 1, table 2)."""


@dataclass(frozen=True, slots=True)
class _Algorithm:
    generate: Callable[[], PrivateKey]
    accepts: Callable[[object], bool]


_ALGORITHMS: Final = {
    "EdDSA": _Algorithm(
        generate=Ed25519PrivateKey.generate,
        accepts=lambda key: isinstance(key, Ed25519PrivateKey),
    ),
    "ES256": _Algorithm(
        generate=lambda: generate_ec(SECP256R1()),
        accepts=lambda key: isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1),
    ),
    "RS256": _Algorithm(
        generate=lambda: generate_rsa(public_exponent=65_537, key_size=RSA_BITS),
        accepts=lambda key: isinstance(key, RSAPrivateKey) and key.key_size >= 2048,
    ),
}

DEFAULT_ALGORITHM: Final = "ES256"
"""Verified faster than EdDSA, and by every gateway. See docs/decisions.md."""


class UnknownAlgorithm(PicklableError, ValueError):
    """The auth service does not sign with this algorithm. The text lists those that it signs with."""

    def __init__(self, algorithm: object) -> None:
        super().__init__(f"algorithm {algorithm!r} is not one of {', '.join(_ALGORITHMS)}")


def require_known(algorithm: str) -> str:
    """Returns the algorithm's name (RFC 7518 section 3.1, RFC 8037). UnknownAlgorithm if it is not supported."""
    if algorithm not in _ALGORITHMS:
        raise UnknownAlgorithm(algorithm)
    return algorithm


def generate_private_key(algorithm: str) -> PrivateKey:
    """Generates a private key; for RSA this takes some tenths of a second. Raises UnknownAlgorithm."""
    return _ALGORITHMS[require_known(algorithm)].generate()


def public_der(key: PrivateKey) -> bytes:
    """The public half: a DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7)."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def private_der(key: PrivateKey) -> bytes:
    """The private key as unencrypted PKCS #8 DER (RFC 5208). Only the vault calls this, to seal the result."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def load_private_key(der: bytes, algorithm: str) -> PrivateKey:
    """Reads what `private_der` returned. ValueError if it is something else, or not a key of the algorithm."""
    require_known(algorithm)
    try:
        key: Any = load_der_private_key(der, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the private key cannot be read: {type(error).__name__}") from None
    _require_match(key, algorithm)
    private_key: PrivateKey = key
    return private_key


def message_signer(key: PrivateKey, algorithm: str) -> Callable[[bytes], bytes]:
    """Returns the function that signs a message. Its signatures have the form of JWS (RFC 7518 section 3)."""
    _require_match(key, require_known(algorithm))
    implementation: Any = get_default_algorithms()[algorithm]
    return lambda message: bytes(implementation.sign(message, key))


def _require_match(key: object, algorithm: str) -> None:
    if not _ALGORITHMS[algorithm].accepts(key):
        raise ValueError(f"a {type(key).__name__} does not sign {algorithm}")
