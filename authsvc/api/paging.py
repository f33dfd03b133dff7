"""Paging through lists that are ordered by name.

A page token is the last name of the page before. So a page begins right after it whatever was added or deleted in
between, and no server keeps a cursor.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from authsvc.errors import InvalidField

__all__ = ["DEFAULT_SIZE", "MAX_SIZE", "name_before", "page", "page_size", "token_after"]

T = TypeVar("T")

DEFAULT_SIZE: Final = 100
MAX_SIZE: Final = 1000
_VERSION: Final = b"1:"


def page(items: Iterable[T], *, name: Callable[[T], str], size: int, token: str) -> tuple[list[T], str]:
    """One page of the items in the order of their names, and the token of the next page ("" after the last).

    size and token are a request's page_size and page_token; InvalidField if one of them is not acceptable.
    """
    size, after = page_size(size), name_before(token)
    rest = sorted((item for item in items if name(item) > after), key=name)
    found = rest[:size]
    return found, token_after(name(found[-1])) if len(rest) > size else ""


def page_size(asked: int) -> int:
    """How many a request's page_size asks for. InvalidField "page_size" if it is out of range."""
    if not 0 <= asked <= MAX_SIZE:
        raise InvalidField("page_size", f"must be from 1 to {MAX_SIZE:,}, or 0 for {DEFAULT_SIZE}")
    return asked or DEFAULT_SIZE


def token_after(last: str) -> str:
    """The token of the page that begins right after this name."""
    return base64.urlsafe_b64encode(_VERSION + last.encode()).decode().rstrip("=")


def name_before(token: str) -> str:
    """The name that the page begins after, "" for the first page. InvalidField "page_token" for one we never gave."""
    if not token:
        return ""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        last = raw.removeprefix(_VERSION).decode()
    except (binascii.Error, ValueError):
        raise InvalidField("page_token", "is not one that was given out; begin without one") from None
    if not raw.startswith(_VERSION):
        raise InvalidField("page_token", "is not one that was given out; begin without one")
    return last
