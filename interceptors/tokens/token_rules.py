"""The rules that every access token of ours follows, as constants.

It imports nothing heavy: the `credmesh` command explains tokens by these rules without loading gRPC or cryptography.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ALGORITHMS",
    "HEADER_MEMBERS",
    "MEDIA_TYPES",
    "REQUIRED_TEXT_CLAIMS",
    "REQUIRED_TIME_CLAIMS",
]

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
"""The signature algorithms of keys (RFC 7518 section 3.1, RFC 8037 section 3.1). No other is ever accepted.

verification_key.py refuses a key of another algorithm, and access_token.py a token whose header names another algorithm
than its key.
"""

HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ"})
"""The members of a header: all are required, and no other is accepted."""

MEDIA_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
"""The accepted values of `typ`, in lower case (RFC 9068 section 4)."""

REQUIRED_TEXT_CLAIMS: Final = ("iss", "sub", "client_id", "jti")
"""Required claims that are strings and not empty. `scope` is required too, and may be empty."""

REQUIRED_TIME_CLAIMS: Final = ("exp", "nbf", "iat")
"""Required claims that are a NumericDate (RFC 7519 section 2)."""
