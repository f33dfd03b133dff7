"""Base64url without padding (RFC 4648 section 5, RFC 7515 section 2)."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import a2b_base64, b2a_base64
from typing import Final

__all__ = ["decode", "decode_leniently", "encode"]

_TO_STANDARD_ALPHABET: Final = bytes.maketrans(b"-_+/=", b"+/***")
"""From base64url's alphabet to base64's. `+`, `/` and padding, which base64url does not have, become invalid."""


def encode(raw: bytes) -> str:
    """Encodes bytes."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Decodes text that must be in its only canonical form. ValueError, which never quotes the text, if it is not.

    Python's decoders skip stray characters and ignore left-over bits, so several texts would decode to the same bytes.
    Only the canonical text is what its bytes encode to.
    """
    standard = text.encode("ascii", "replace").translate(_TO_STANDARD_ALPHABET) + b"=" * (-len(text) % 4)
    try:
        raw = a2b_base64(standard)
    except binascii.Error:
        raise ValueError("not base64url") from None
    if b2a_base64(raw, newline=False) != standard:
        raise ValueError("not in canonical base64url")
    return raw


def decode_leniently(text: str) -> bytes:
    """Decodes text as well as it can, to show what is in it. ValueError if there is nothing to show.

    For inspection only: stray characters and left-over bits are ignored, so this verifies nothing.
    """
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
