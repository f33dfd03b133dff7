"""The verification keys as a JSON Web Key Set (RFC 7517), for verifiers that are not nodes of the mesh."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from interceptors.tokens import base64url
from interceptors.tokens.verification_key import VerificationKey

__all__ = ["json_web_key", "key_set"]


def key_set(keys: Iterable[VerificationKey]) -> list[dict[str, str]]:
    """The JSON Web Keys of all verification keys, whether PREPARED, ACTIVE or RETIRING, in the order of their kids.

    The members are those of credmesh.auth.v1.JsonWebKey.
    """
    return [json_web_key(key) for key in sorted(keys, key=lambda key: key.kid)]


def json_web_key(key: VerificationKey) -> dict[str, str]:
    """A key as a JSON Web Key: RFC 8037 section 2 for Ed25519, RFC 7518 sections 6.2.1 and 6.3.1 for P-256 and RSA."""
    common = {"kid": key.kid, "alg": key.algorithm, "use": "sig"}
    public_key = key.public_key
    if isinstance(public_key, Ed25519PublicKey):
        return {**common, "kty": "OKP", "crv": "Ed25519", "x": base64url.encode(public_key.public_bytes_raw())}
    if isinstance(public_key, EllipticCurvePublicKey):
        point = public_key.public_numbers()
        # All 32 bytes, leading zeros included, as section 6.2.1.2 requires.
        x, y = (base64url.encode(coordinate.to_bytes(32)) for coordinate in (point.x, point.y))
        return {**common, "kty": "EC", "crv": "P-256", "x": x, "y": y}
    numbers = public_key.public_numbers()
    n, e = (base64url.encode(number.to_bytes((number.bit_length() + 7) // 8)) for number in (numbers.n, numbers.e))
    return {**common, "kty": "RSA", "n": n, "e": e}
