"""Opaque tokens: session tokens, refresh tokens and client secrets.

    <prefix>_<base64url of: 16 bytes session id | 32 bytes secret | 4 bytes CRC-32 of the prefix and what precedes>

The prefix makes a leaked token recognisable to secret scanners, the checksum refuses garbage without asking anybody,
and the session id finds the record without an index. The secret has 256 random bits and is stored as SHA-256 only.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import secrets
import zlib
from dataclasses import dataclass
from typing import Final

__all__ = ["OpaqueKind", "OpaqueToken", "is_opaque", "new_session_id"]

_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_LENGTH: Final = len("cms_") + 70  # 52 bytes in base64url without padding


class OpaqueKind(enum.Enum):
    """What an opaque token is for, by its prefix."""

    SESSION = "cms"
    REFRESH = "cmr"
    CLIENT_SECRET = "cmc"  # noqa: S105 - a prefix, not a secret


@dataclass(frozen=True, slots=True)
class OpaqueToken:
    """A token's parts. `session_id` is 22 characters of base64url; for a client secret it is random and unused."""

    kind: OpaqueKind
    session_id: str
    secret: bytes

    def __repr__(self) -> str:
        # Never the secret: tokens end up in tracebacks and logs by their repr.
        return f"OpaqueToken(kind={self.kind.name}, session_id={self.session_id!r})"

    @classmethod
    def generate(cls, kind: OpaqueKind, session_id: str | None = None) -> OpaqueToken:
        """A new token with a random secret, for a new session or the given one."""
        return cls(kind, session_id or new_session_id(), secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> OpaqueToken:
        """Reads a token. ValueError, which never quotes the text, if it is not one of ours."""
        prefix, separator, body = text.partition("_")
        if not separator or len(text) != _LENGTH:
            raise ValueError("not an opaque token: wrong length or no prefix")
        kind = OpaqueKind(prefix) if prefix in _PREFIXES else None
        if kind is None:
            raise ValueError("not an opaque token: unknown prefix")
        try:
            raw = base64.b64decode(body + "==", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("not an opaque token: not base64url") from None
        if _b64(raw) != body:
            # The last character has bits left over: without this, sixteen texts would be the same token.
            raise ValueError("not an opaque token: not in canonical base64url")
        content, checksum = raw[:-4], raw[-4:]
        if zlib.crc32(prefix.encode() + content).to_bytes(4) != checksum:
            raise ValueError("not an opaque token: wrong checksum")
        return cls(kind, _b64(content[:_ID_BYTES]), content[_ID_BYTES:])

    def text(self) -> str:
        """The token as it travels. A secret."""
        content = base64.urlsafe_b64decode(self.session_id + "==") + self.secret
        checksum = zlib.crc32(self.kind.value.encode() + content).to_bytes(4)
        return f"{self.kind.value}_{_b64(content + checksum)}"

    @property
    def secret_sha256(self) -> bytes:
        """What is stored instead of the secret."""
        return hashlib.sha256(self.secret).digest()


_PREFIXES: Final = frozenset(kind.value for kind in OpaqueKind)


def new_session_id() -> str:
    """A session id: 128 random bits in base64url, 22 characters. Not a secret.

    None begins with a dash: people give ids to commands, which would take it for an option.
    """
    while (drawn := _b64(secrets.token_bytes(_ID_BYTES))).startswith("-"):
        pass
    return drawn


def is_opaque(credential: str) -> bool:
    """Whether a bearer credential claims to be an opaque session rather than a JWT. A JWT has no such prefix."""
    return credential.startswith("cms_")


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
