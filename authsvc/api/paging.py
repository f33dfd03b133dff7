"""Paging through lists that are ordered by name.

A page token holds the last name of the page before. So a page begins right after that name, also if items were added or
deleted in between, and no server keeps a cursor. Sessions are paged by id and have page tokens of their own
(authsvc.api.session_service).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from authsvc.errors import InvalidField
from interceptors.tokens import base64url

__all__ = ["invalid_token", "name_before", "page", "page_size", "token_after"]

T = TypeVar("T")

_DEFAULT_PAGE_SIZE: Final = 100
_MAX_PAGE_SIZE: Final = 1000
_VERSION: Final = b"1:"


def page(items: Iterable[T], *, name: Callable[[T], str], size: int, token: str) -> tuple[list[T], str]:
    """Returns one page of the items in the order of their names, and the token of the next page ("" after the last).

    size and token are a request's page_size and page_token. Raises InvalidField if one of them is invalid.
    """
    size, after = page_size(size), name_before(token)
    rest = sorted((item for item in items if name(item) > after), key=name)
    selected = rest[:size]
    return selected, token_after(name(selected[-1])) if len(rest) > size else ""


def page_size(requested: int) -> int:
    """The size that a request's page_size stands for. InvalidField "page_size" if it is out of range."""
    if not 0 <= requested <= _MAX_PAGE_SIZE:
        raise InvalidField("page_size", f"must be from 1 to {_MAX_PAGE_SIZE:,}, or 0 for {_DEFAULT_PAGE_SIZE}")
    return requested or _DEFAULT_PAGE_SIZE


def token_after(last: str) -> str:
    """The page token of the page that begins right after a name."""
    return base64url.encode(_VERSION + last.encode())


def name_before(token: str) -> str:
    """The name after which a page begins; "" for the first page. InvalidField "page_token" if the token is not ours."""
    if not token:
        return ""
    try:
        raw = base64url.decode(token)
        last = raw.removeprefix(_VERSION).decode()
    except ValueError:
        raise invalid_token() from None
    if not raw.startswith(_VERSION):
        raise invalid_token()
    return last


def invalid_token() -> InvalidField:
    """Returns the exception for a page token that this API has not given out."""
    return InvalidField("page_token", "is not a token of this API; leave it empty to get the first page")
