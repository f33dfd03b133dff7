"""Untrusted text, made safe for a terminal, and the width of text there."""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["columns_of", "pad", "printable"]

# Control and format characters, surrogates, private-use characters and Unicode's line ends. They move the cursor, hide
# text, reverse its direction or forge lines. A token's claims may come from an attacker.
_UNSAFE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_TWO_COLUMN_WIDTHS: Final = frozenset({"W", "F"})


def printable(text: str) -> str:
    """The text with an escape, e.g. `\\x1b`, for every character that a terminal could take for a command."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escaped(character) if unicodedata.category(character) in _UNSAFE_CATEGORIES else character
        for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def columns_of(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in _TWO_COLUMN_WIDTHS
        else 1
        for character in text
    )


def pad(text: str, width: int) -> str:
    """The text with spaces after it, up to `width` columns of a terminal."""
    return text + " " * (width - columns_of(text))
