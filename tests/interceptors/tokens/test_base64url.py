"""Base64url: one text for all bytes, and no other text is decoded."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptors.tokens import base64url

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(st.binary(max_size=100))
def test_encoded_bytes_are_decoded(raw: bytes) -> None:
    text = base64url.encode(raw)
    assert set(text) <= set(ALPHABET)
    assert base64url.decode(text) == base64url.decode_leniently(text) == raw


@given(st.text(st.sampled_from(ALPHABET + "+/=. é\n"), max_size=12))
def test_only_the_canonical_text_is_decoded(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert base64url.encode(base64url.decode(text)) == text


@pytest.mark.parametrize("text", ["QQ==", "QR", "Q", "Q+", "Q/", "Q Q", "é"])
def test_padding_left_over_bits_and_other_characters_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        base64url.decode(text)


def test_inspection_decodes_left_over_bits() -> None:
    assert base64url.decode_leniently("QR") == b"A"
