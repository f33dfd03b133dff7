"""Verification keys: a public key that knows its one algorithm."""

from __future__ import annotations

from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from google.protobuf.message import DecodeError
from jwt.algorithms import Algorithm, get_default_algorithms

from credmesh.store.v1 import mesh_pb2

__all__ = ["ALGORITHMS", "RecordError", "VerificationKey", "read_key"]

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
"""What a key may sign with (RFC 7518 section 3.1, RFC 8037). Nothing else is ever accepted."""

FORMAT: Final = 1
_IMPLEMENTATIONS: Final[dict[str, Algorithm]] = {name: get_default_algorithms()[name] for name in ALGORITHMS}


class RecordError(ValueError):
    """A record in etcd cannot be used. The text says why; the record is skipped and the node goes on."""


class VerificationKey:
    """A key that verifies access tokens.

    kid        its id
    algorithm  one of ALGORITHMS. It belongs to the key; a token's header only repeats it
    state      mesh_pb2.VerificationKey.State; a PREPARED key verifies already, so that its first token is no surprise
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
        """The public key, as `cryptography` holds it: for those who publish it."""
        return self._public_key

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature (in JWS form, RFC 7515 section 5.2) is this key's over the message."""
        return bool(self._implementation.verify(message, self._public_key, signature))


def read_key(value: bytes) -> VerificationKey:
    """Reads a `mesh/keys/<kid>` record. RecordError if it is foreign, newer than this code, or contradicts itself."""
    try:
        record = mesh_pb2.VerificationKey.FromString(value)
    except DecodeError:
        raise RecordError("not a VerificationKey record") from None
    if record.format != FORMAT:
        raise RecordError(f"format {record.format} is unknown here (only {FORMAT}); is this node older than the mesh?")
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
