"""Checking the fields of requests: what callers send is bounded and named before anything is done with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from authsvc.errors import InvalidField

__all__ = [
    "audiences",
    "name",
    "new_password",
    "password",
    "reason",
    "scopes",
    "token",
]

MAX_NAME: Final = 256
MAX_PASSWORD_BYTES: Final = 1024
MIN_NEW_PASSWORD_BYTES: Final = 8
MAX_REASON: Final = 1024
MAX_TOKEN: Final = 16_384
MAX_SCOPES: Final = 256
MAX_AUDIENCES: Final = 32
"""As many as a node reads in a credential."""

# scope-token of RFC 6749 section 3.3: printable ASCII without space, quote and backslash.
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
# Control characters, and the line ends that only Unicode has: they forge lines in logs and tables.
_FORBIDDEN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def name(field: str, value: str) -> str:
    """A subject, client id, session id, key id or audience: 1 to 256 characters without control characters."""
    if not value:
        raise InvalidField(field, "is empty")
    _text(field, value, MAX_NAME)
    return value


def scopes(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """Scopes (RFC 6749 section 3.3), each once, in the order given. None is fine."""
    found = _distinct(field, values, MAX_SCOPES)
    for scope in found:
        if _SCOPE.fullmatch(scope) is None:
            raise InvalidField(
                field,
                "holds what is not a scope: 1 to 256 printable ASCII characters, no space, quote or backslash "
                "(RFC 6749 section 3.3)",
            )
    return found


def audiences(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """Audiences, each once, in the order given. None is fine; whether such a service exists is not asked."""
    found = _distinct(field, values, MAX_AUDIENCES)
    for audience in found:
        name(field, audience)
    return found


def password(field: str, value: str) -> str:
    """A password somebody tries: 1 to 1,024 bytes."""
    if not value:
        raise InvalidField(field, "is empty")
    if len(value.encode()) > MAX_PASSWORD_BYTES:
        raise InvalidField(field, f"is longer than {MAX_PASSWORD_BYTES:,} bytes")
    return value


def new_password(field: str, value: str) -> str:
    """A password to be set: 8 to 1,024 bytes."""
    password(field, value)
    if len(value.encode()) < MIN_NEW_PASSWORD_BYTES:
        raise InvalidField(field, f"is shorter than {MIN_NEW_PASSWORD_BYTES} bytes")
    return value


def reason(field: str, value: str) -> str:
    """A reason for the audit trail: up to 1,024 characters without control characters; may be empty."""
    _text(field, value, MAX_REASON)
    return value


def token(field: str, value: str) -> str:
    """A token that is to be looked at: not empty, and not larger than anything that could be one."""
    if not value:
        raise InvalidField(field, "is empty")
    if len(value) > MAX_TOKEN:
        raise InvalidField(field, f"is longer than {MAX_TOKEN:,} characters")
    return value


def _distinct(field: str, values: Iterable[str], most: int) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(values))
    if len(found) > most:
        raise InvalidField(field, f"holds more than {most}")
    return found


def _text(field: str, value: str, most: int) -> None:
    if len(value) > most:
        raise InvalidField(field, f"is longer than {most:,} characters")
    if any(unicodedata.category(character) in _FORBIDDEN for character in value):
        raise InvalidField(field, "holds a control character")
