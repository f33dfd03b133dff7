"""Verification keys: a public key with its only algorithm."""

from __future__ import annotations

from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from jwt.algorithms import Algorithm, get_default_algorithms

from credmesh.store.v1 import mesh_pb2
from interceptors.stored_records import RecordError, parse_record
from interceptors.tokens.token_rules import ALGORITHMS

__all__ = ["VerificationKey", "read_key"]

_IMPLEMENTATIONS: Final[dict[str, Algorithm]] = {name: get_default_algorithms()[name] for name in ALGORITHMS}


class VerificationKey:
    """A key that verifies access tokens.

    kid        the key's id
    algorithm  one of ALGORITHMS. It belongs to the key; a token's header only repeats it
    state      mesh_pb2.VerificationKey.State. A PREPARED key verifies already, before its first token is issued
    """

    __slots__ = ("_implementation", "_public_key", "algorithm", "kid", "state")

    def __init__(self, kid: str, algorithm: str, public_key: Any, state: int) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.state = state
        self._public_key = public_key
        self._implementation = _IMPLEMENTATIONS[algorithm]

    def __repr__(self) -> str:
        return f"VerificationKey(kid={self.kid!r}, algorithm={self.algorithm!r})"

    @property
    def public_key(self) -> Any:
        """The public key as an object of `cryptography`, for publishing it."""
        return self._public_key

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether this key made the signature (in JWS form, RFC 7515 section 5.2) over the message."""
        return bool(self._implementation.verify(message, self._public_key, signature))


def read_key(value: bytes) -> VerificationKey:
    """Parses a `mesh/keys/<kid>` record. RecordError if it is of another kind or format, or contradicts itself."""
    record = parse_record(mesh_pb2.VerificationKey, value)
    if record.algorithm not in _IMPLEMENTATIONS:
        raise RecordError(f"algorithm {record.algorithm!r} is not one of {', '.join(ALGORITHMS)}")
    if not record.kid:
        raise RecordError("the kid is empty")
    try:
        public_key = load_der_public_key(record.public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RecordError(f"the public key cannot be read: {error}") from None
    if not _fits(record.algorithm, public_key):
        raise RecordError(f"a {type(public_key).__name__} does not sign {record.algorithm}")
    return VerificationKey(record.kid, record.algorithm, public_key, record.state)


def _fits(algorithm: str, public_key: object) -> bool:
    if algorithm == "EdDSA":
        return isinstance(public_key, Ed25519PublicKey)
    if algorithm == "ES256":
        return isinstance(public_key, EllipticCurvePublicKey) and isinstance(public_key.curve, SECP256R1)
    return isinstance(public_key, RSAPublicKey) and public_key.key_size >= 2048
