"""Signing access tokens (RFC 9068) with one key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from authsvc.keys.algorithms import PrivateKey, message_signer
from interceptors.tokens import base64url

__all__ = ["TOKEN_TYPE", "Signer"]

TOKEN_TYPE: Final = "at+jwt"  # noqa: S105 - a media type, RFC 9068 section 2.1


class Signer:
    """Signs claims with one private key. The header consists of alg, kid and typ, and is encoded once.

    kid        the key's id
    algorithm  "EdDSA", "ES256" or "RS256"
    """

    __slots__ = ("_header", "_sign", "algorithm", "kid")

    def __init__(self, kid: str, algorithm: str, private_key: PrivateKey) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self._sign = message_signer(private_key, algorithm)
        self._header = _encode(_json({"alg": algorithm, "kid": kid, "typ": TOKEN_TYPE})) + b"."

    def __repr__(self) -> str:
        return f"Signer(kid={self.kid!r}, algorithm={self.algorithm!r})"

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Returns a token with these claims, as a JWS compact serialization (RFC 7515 section 7.1).

        Raises TypeError or ValueError for values that JSON does not have, such as NaN and infinity.
        """
        message = self._header + _encode(_json(claims))
        return (message + b"." + _encode(self._sign(message))).decode("ascii")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _encode(raw: bytes) -> bytes:
    return base64url.encode(raw).encode("ascii")
