"""The algorithms that we sign with: making, storing and using a private key of each."""

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

from credmesh.admin.v1 import keys_pb2

__all__ = [
    "DEFAULT",
    "PrivateKey",
    "UnknownAlgorithm",
    "algorithm_of",
    "check",
    "generate",
    "load_private_key",
    "message_signer",
    "private_der",
    "public_der",
    "to_message",
]

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey

RSA_BITS: Final = 3072
"""As strong as P-256 and Ed25519 (NIST SP 800-57 part 1, table 2)."""


@dataclass(frozen=True, slots=True)
class _Algorithm:
    number: keys_pb2.KeyAlgorithm.ValueType
    generate: Callable[[], PrivateKey]
    fits: Callable[[object], bool]


_ALGORITHMS: Final = {
    "EdDSA": _Algorithm(
        number=keys_pb2.KEY_ALGORITHM_EDDSA,
        generate=Ed25519PrivateKey.generate,
        fits=lambda key: isinstance(key, Ed25519PrivateKey),
    ),
    "ES256": _Algorithm(
        number=keys_pb2.KEY_ALGORITHM_ES256,
        generate=lambda: generate_ec(SECP256R1()),
        fits=lambda key: isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1),
    ),
    "RS256": _Algorithm(
        number=keys_pb2.KEY_ALGORITHM_RS256,
        generate=lambda: generate_rsa(public_exponent=65_537, key_size=RSA_BITS),
        fits=lambda key: isinstance(key, RSAPrivateKey) and key.key_size >= 2048,
    ),
}

DEFAULT: Final = "EdDSA"


class UnknownAlgorithm(ValueError):
    """Nobody signs with this here. The text lists what there is."""

    def __init__(self, algorithm: object) -> None:
        super().__init__(f"algorithm {algorithm!r} is not one of {', '.join(_ALGORITHMS)}")


def check(algorithm: str) -> str:
    """Returns the algorithm's name if it is one of ours (RFC 7518 section 3.1, RFC 8037), else UnknownAlgorithm."""
    if algorithm not in _ALGORITHMS:
        raise UnknownAlgorithm(algorithm)
    return algorithm


def generate(algorithm: str) -> PrivateKey:
    """Makes a private key. RSA takes some tenths of a second. UnknownAlgorithm if nobody signs with it here."""
    return _ALGORITHMS[check(algorithm)].generate()


def public_der(key: PrivateKey) -> bytes:
    """The public half: a DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7)."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def private_der(key: PrivateKey) -> bytes:
    """The private key as PKCS #8 DER (RFC 5208), in the clear: only ever on its way into the vault."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def load_private_key(der: bytes, algorithm: str) -> PrivateKey:
    """Reads what `private_der` wrote. ValueError if it is something else, or not a key of the algorithm."""
    check(algorithm)
    try:
        key: Any = load_der_private_key(der, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the private key cannot be read: {type(error).__name__}") from None
    if not _ALGORITHMS[algorithm].fits(key):
        raise ValueError(f"a {type(key).__name__} does not sign {algorithm}")
    found: PrivateKey = key
    return found


def message_signer(key: PrivateKey, algorithm: str) -> Callable[[bytes], bytes]:
    """The function that signs a message; its signatures have the form of JWS (RFC 7518 section 3)."""
    if not _ALGORITHMS[check(algorithm)].fits(key):
        raise ValueError(f"a {type(key).__name__} does not sign {algorithm}")
    implementation: Any = get_default_algorithms()[algorithm]
    return lambda message: bytes(implementation.sign(message, key))


def to_message(algorithm: str) -> keys_pb2.KeyAlgorithm.ValueType:
    """The algorithm as the admin API names it; unspecified for one that is not ours."""
    found = _ALGORITHMS.get(algorithm)
    return keys_pb2.KEY_ALGORITHM_UNSPECIFIED if found is None else found.number


def algorithm_of(number: int) -> str:
    """The reverse: the algorithm's name, "" for unspecified. UnknownAlgorithm for a number that has no name yet."""
    if number == keys_pb2.KEY_ALGORITHM_UNSPECIFIED:
        return ""
    for name, algorithm in _ALGORITHMS.items():
        if algorithm.number == number:
            return name
    raise UnknownAlgorithm(number)
