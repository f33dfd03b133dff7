"""The credentials of the clients, and their descriptions in the operation log."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from credmesh.auth.v1 import auth_pb2
from interceptors.scopes import EVERYONE
from localmesh import forged_tokens

__all__ = ["Credential", "bearer", "claims_of", "described", "fingerprint"]


@dataclass(slots=True, eq=False)
class Credential:
    """An access token or an opaque session, and the refresh token that came with it.

    good_until  monotonic seconds: until then it has certainly not expired, by a clock that is right
    """

    id: str
    token: str = field(repr=False)
    subject: str
    client: str
    kind: str
    session: str | None
    audiences: tuple[str, ...]
    answered: float
    good_until: float
    refresh_token: str | None = field(default=None, repr=False)
    kid: str | None = None

    def belongs_to(self, scope: str) -> bool:
        """Whether a revocation of the scope, named as in interceptors.scopes, concerns this credential."""
        kind, _, name = scope.partition("/")
        return {
            EVERYONE: True,
            "sub": name == self.subject,
            "sid": name == self.session,
            "client": name == self.client,
            "aud": name in self.audiences,
        }[kind]


def fingerprint(token: str) -> str:
    """The identifier that stands for a token in the operation log."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries a credential."""
    return (("authorization", f"Bearer {token}"),)


def claims_of(token: str) -> dict[str, Any]:
    """The claims of an access token, and its kid; empty for an empty token."""
    return {**forged_tokens.claims_of(token), "kid": forged_tokens.header_of(token)["kid"]} if token else {}


def described(credential: Credential, issued: auth_pb2.Credentials) -> dict[str, Any]:
    """The fields of the operation log that describe an issued credential."""
    claims = claims_of(issued.access_token)
    return {
        "cred": credential.id,
        "kind": credential.kind,
        "sid": credential.session,
        "aud": list(credential.audiences),
        "refresh": None if credential.refresh_token is None else fingerprint(credential.refresh_token),
        **{name: claims[name] for name in ("epoch", "kid", "iat", "exp") if name in claims},
    }
