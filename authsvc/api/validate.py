"""Validates the fields of requests. Each function returns the valid value, or raises InvalidField."""

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

MAX_NAME_CHARACTERS: Final = 256
MAX_PASSWORD_BYTES: Final = 1024
MIN_NEW_PASSWORD_BYTES: Final = 8
MAX_REASON_CHARACTERS: Final = 1024
MAX_TOKEN_CHARACTERS: Final = 16_384
MAX_SCOPES: Final = 256
MAX_AUDIENCES: Final = 32
"""A node reads no more of them from a credential."""

# scope-token of RFC 6749 section 3.3: printable ASCII without space, quote and backslash.
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
# Control characters and Unicode's line ends could forge lines in logs and tables.
_FORBIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def name(field: str, value: str) -> str:
    """A subject, client id, session id, key id or audience: 1 to 256 characters without control characters."""
    if not value:
        raise InvalidField(field, "is empty")
    _check_text(field, value, MAX_NAME_CHARACTERS)
    return value


def scopes(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """Scopes (RFC 6749 section 3.3), without duplicates, in the given order. May be empty."""
    distinct = _distinct(field, values, MAX_SCOPES)
    for scope in distinct:
        if _SCOPE.fullmatch(scope) is None:
            raise InvalidField(
                field,
                "has an element that is not a scope: 1 to 256 printable ASCII characters, no space, quote or backslash "
                "(RFC 6749 section 3.3)",
            )
    return distinct


def audiences(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """Audiences, without duplicates, in the given order. May be empty. Services with these names need not exist."""
    distinct = _distinct(field, values, MAX_AUDIENCES)
    for audience in distinct:
        name(field, audience)
    return distinct


def password(field: str, value: str) -> str:
    """A password to check: 1 to 1,024 bytes."""
    if not value:
        raise InvalidField(field, "is empty")
    if len(value.encode()) > MAX_PASSWORD_BYTES:
        raise InvalidField(field, f"is longer than {MAX_PASSWORD_BYTES:,} bytes")
    return value


def new_password(field: str, value: str) -> str:
    """A password to set: 8 to 1,024 bytes."""
    password(field, value)
    if len(value.encode()) < MIN_NEW_PASSWORD_BYTES:
        raise InvalidField(field, f"is shorter than {MIN_NEW_PASSWORD_BYTES} bytes")
    return value


def reason(field: str, value: str) -> str:
    """A reason for the audit trail: up to 1,024 characters without control characters. May be empty."""
    _check_text(field, value, MAX_REASON_CHARACTERS)
    return value


def token(field: str, value: str) -> str:
    """A token to parse: 1 to 16,384 characters."""
    if not value:
        raise InvalidField(field, "is empty")
    if len(value) > MAX_TOKEN_CHARACTERS:
        raise InvalidField(field, f"is longer than {MAX_TOKEN_CHARACTERS:,} characters")
    return value


def _distinct(field: str, values: Iterable[str], max_count: int) -> tuple[str, ...]:
    distinct = tuple(dict.fromkeys(values))
    if len(distinct) > max_count:
        raise InvalidField(field, f"has more than {max_count} elements")
    return distinct


def _check_text(field: str, value: str, max_characters: int) -> None:
    if len(value) > max_characters:
        raise InvalidField(field, f"is longer than {max_characters:,} characters")
    if any(unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in value):
        raise InvalidField(field, "contains a control character")
