"""Opaque tokens: session tokens, refresh tokens and client secrets.

    <prefix>_<base64url of: 16 bytes session id | 32 bytes secret | 4 bytes CRC-32 of the prefix and what precedes>

Secret scanners recognize a leaked token by the prefix. The checksum refuses garbage without a lookup. The session id
finds the record without an index. The secret has 256 random bits, and only its SHA-256 is stored.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
import zlib
from dataclasses import dataclass
from typing import Final

from interceptors.tokens import base64url

__all__ = ["OpaqueKind", "OpaqueToken", "is_opaque", "new_session_id"]

_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_LENGTH: Final = len("cms_") + 70  # characters; the 52 bytes are 70 in base64url


class OpaqueKind(enum.Enum):
    """The purpose of an opaque token, which its prefix names."""

    SESSION = "cms"
    REFRESH = "cmr"
    CLIENT_SECRET = "cmc"  # noqa: S105 - a prefix, not a secret


@dataclass(frozen=True, slots=True)
class OpaqueToken:
    """The parts of a token. `session_id` is 22 characters of base64url; in a client secret it is random and unused."""

    kind: OpaqueKind
    session_id: str
    secret: bytes

    def __repr__(self) -> str:
        # Without the secret, since a repr ends up in tracebacks and logs.
        return f"OpaqueToken(kind={self.kind.name}, session_id={self.session_id!r})"

    @classmethod
    def generate(cls, kind: OpaqueKind, session_id: str | None = None) -> OpaqueToken:
        """Makes a token with a random secret, for the given session or a new one."""
        return cls(kind, session_id or new_session_id(), secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> OpaqueToken:
        """Parses a token. ValueError, which never quotes the text, if it is not valid."""
        prefix, separator, body = text.partition("_")
        if not separator or len(text) != _LENGTH:
            raise ValueError("not an opaque token: wrong length or no prefix")
        kind = OpaqueKind(prefix) if prefix in _PREFIXES else None
        if kind is None:
            raise ValueError("not an opaque token: unknown prefix")
        try:
            raw = base64url.decode(body)
        except ValueError as error:
            raise ValueError(f"not an opaque token: {error}") from None
        content, checksum = raw[:-4], raw[-4:]
        if zlib.crc32(prefix.encode() + content).to_bytes(4) != checksum:
            raise ValueError("not an opaque token: wrong checksum")
        return cls(kind, base64url.encode(content[:_ID_BYTES]), content[_ID_BYTES:])

    def text(self) -> str:
        """Returns the token as it is sent. It is a secret."""
        content = base64url.decode(self.session_id) + self.secret
        checksum = zlib.crc32(self.kind.value.encode() + content).to_bytes(4)
        return f"{self.kind.value}_{base64url.encode(content + checksum)}"

    @property
    def secret_sha256(self) -> bytes:
        """The hash that is stored instead of the secret."""
        return hashlib.sha256(self.secret).digest()


_PREFIXES: Final = frozenset(kind.value for kind in OpaqueKind)


def new_session_id() -> str:
    """Returns a new session id: 128 random bits in base64url, 22 characters. Not a secret.

    It never begins with a dash, which a command would read as an option.
    """
    while (drawn := base64url.encode(secrets.token_bytes(_ID_BYTES))).startswith("-"):
        pass
    return drawn


def is_opaque(credential: str) -> bool:
    """Whether a bearer credential is an opaque session token by its prefix, which no JWT has."""
    return credential.startswith("cms_")
