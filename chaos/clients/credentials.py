"""What the clients hold, and what the history says of it."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from credmesh.auth.v1 import auth_pb2
from interceptors.scopes import EVERYONE

__all__ = ["Credential", "bearer", "claims_of", "described", "short"]


@dataclass(slots=True, eq=False)
class Credential:
    """An access token or an opaque session, and the refresh token that came with it.

    good_until  monotonic seconds: until then it is certainly not expired, by a clock that was right
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
        """Whether a revocation of the scope, named as in interceptors.keyspace, is one of it."""
        kind, _, name = scope.partition("/")
        return {
            EVERYONE: True,
            "sub": name == self.subject,
            "sid": name == self.session,
            "client": name == self.client,
            "aud": name in self.audiences,
        }[kind]


def short(token: str) -> str:
    """What stands for a token in the history."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries a credential."""
    return (("authorization", f"Bearer {token}"),)


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token, and its kid; nothing for an empty one."""
    if not token:
        return {}
    header, claims, _ = token.split(".")
    return {**_decoded(claims), "kid": _decoded(header)["kid"]}


def described(credential: Credential, issued: auth_pb2.Credentials) -> dict[str, Any]:
    """What the history says of a credential that was issued."""
    claims = claims_of(issued.access_token)
    return {
        "cred": credential.id,
        "kind": credential.kind,
        "sid": credential.session,
        "aud": list(credential.audiences),
        "refresh": None if credential.refresh_token is None else short(credential.refresh_token),
        **{name: claims[name] for name in ("epoch", "kid", "iat", "exp") if name in claims},
    }


def _decoded(part: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded
