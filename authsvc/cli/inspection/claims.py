"""The meaning of each member of a token, and the document that defines it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["ALGORITHM_NOTES", "CLAIM_MEANINGS", "HEADER_MEANINGS", "TIME_CLAIMS", "Meaning"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of a member, and the document that defines it."""

    text: str
    source: str


HEADER_MEANINGS: Final = {
    "alg": Meaning("the signature's algorithm; it must be the key's", "RFC 7515 section 4.1.1"),
    "kid": Meaning("the id of the key that signed the token", "RFC 7515 section 4.1.4"),
    "typ": Meaning("the type of token; at+jwt for an access token", "RFC 9068 section 2.1"),
    "cty": Meaning("the type of the content", "RFC 7515 section 4.1.10"),
    "crit": Meaning("extensions that a reader must understand; refused here", "RFC 7515 section 4.1.11"),
    "jku": Meaning("where to fetch keys; refused here: a token must not choose its keys", "RFC 7515 section 4.1.2"),
    "jwk": Meaning("a key; refused here: a token must not bring its key", "RFC 7515 section 4.1.3"),
    "x5u": Meaning("where to fetch certificates; refused here", "RFC 7515 section 4.1.5"),
    "x5c": Meaning("certificates; refused here: a token must not bring its key", "RFC 7515 section 4.1.6"),
    "x5t": Meaning("a certificate's SHA-1; refused here", "RFC 7515 section 4.1.7"),
    "x5t#S256": Meaning("a certificate's SHA-256; refused here", "RFC 7515 section 4.1.8"),
    "b64": Meaning("whether the payload is encoded; refused here", "RFC 7797 section 3"),
    "enc": Meaning("how the content is encrypted; refused here", "RFC 7516 section 4.1.2"),
}
"""The members of a token's header."""

CLAIM_MEANINGS: Final = {
    "iss": Meaning("the issuer", "RFC 7519 section 4.1.1"),
    "sub": Meaning("the subject: a user, or a client that acts for itself", "RFC 7519 section 4.1.2"),
    "aud": Meaning("the services that accept it", "RFC 7519 section 4.1.3"),
    "exp": Meaning("when it expires", "RFC 7519 section 4.1.4"),
    "nbf": Meaning("when it becomes valid", "RFC 7519 section 4.1.5"),
    "iat": Meaning("when it was issued", "RFC 7519 section 4.1.6"),
    "jti": Meaning("the token's unique id", "RFC 7519 section 4.1.7"),
    "client_id": Meaning("the client that it was issued to", "RFC 9068 section 2.2"),
    "scope": Meaning("what the token allows", "RFC 9068 section 2.2.3"),
    "sid": Meaning(
        "its session; when the session ends, the token is refused", "OpenID Connect Front-Channel Logout section 3"
    ),
    "epoch": Meaning("the etcd revision as of which it was issued; a later revocation revokes it", "credmesh"),
    "session_exp": Meaning("when its session ends at the latest", "credmesh"),
    "act": Meaning("who acts for the subject", "RFC 8693 section 4.1"),
    "may_act": Meaning("who may act for the subject", "RFC 8693 section 4.4"),
    "cnf": Meaning("the key that the caller must prove to hold", "RFC 7800 section 3.1"),
    "auth_time": Meaning("when the user signed in", "RFC 9068 section 2.2.1"),
    "acr": Meaning("how strongly the user signed in", "RFC 9068 section 2.2.1"),
    "amr": Meaning("the means by which the user signed in", "RFC 9068 section 2.2.1"),
    "roles": Meaning("the user's roles", "RFC 9068 section 2.2.3.1"),
    "groups": Meaning("the user's groups", "RFC 9068 section 2.2.3.1"),
    "entitlements": Meaning("the user's entitlements", "RFC 9068 section 2.2.3.1"),
    "azp": Meaning("the client that it was issued to", "OpenID Connect Core section 2"),
    "nonce": Meaning("ties an ID token to the request for it", "OpenID Connect Core section 2"),
    "name": Meaning("the user's name", "OpenID Connect Core section 5.1"),
    "email": Meaning("the user's e-mail address", "OpenID Connect Core section 5.1"),
}
"""The claims of a token's payload."""

TIME_CLAIMS: Final = frozenset({"exp", "nbf", "iat", "auth_time", "session_exp"})
"""The claims that hold a NumericDate (RFC 7519 section 2)."""

ALGORITHM_NOTES: Final = {
    "none": "not signed at all (RFC 7518 section 3.6); never accepted",
    "HS256": "a shared secret (RFC 7518 section 3.2); never accepted: every verifier could forge tokens",
    "HS384": "a shared secret (RFC 7518 section 3.2); never accepted: every verifier could forge tokens",
    "HS512": "a shared secret (RFC 7518 section 3.2); never accepted: every verifier could forge tokens",
    "EdDSA": "Ed25519 (RFC 8037 section 3.1)",
    "ES256": "ECDSA on P-256 with SHA-256 (RFC 7518 section 3.4)",
    "RS256": "RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3)",
}
"""What an algorithm is, and why credmesh does not use it if it does not."""
