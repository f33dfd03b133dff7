"""Opaque tokens: a generated token is parsed, and no other text is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken, is_opaque, new_session_id


@given(st.sampled_from(OpaqueKind))
def test_a_token_is_read_back(kind: OpaqueKind) -> None:
    token = OpaqueToken.generate(kind)
    assert OpaqueToken.parse(token.text()) == token
    assert is_opaque(token.text()) is (kind is OpaqueKind.SESSION)


def test_a_successor_keeps_the_session() -> None:
    first = OpaqueToken.generate(OpaqueKind.REFRESH)
    second = OpaqueToken.generate(OpaqueKind.REFRESH, first.session_id)
    assert second.session_id == first.session_id
    assert second.secret != first.secret


TOKEN = OpaqueToken.generate(OpaqueKind.SESSION).text()


@given(st.integers(0, 73), st.sampled_from("ABCxyz019-_é="))
def test_an_altered_token_is_refused_without_a_lookup(at: int, character: str) -> None:
    text = TOKEN
    if text[at] != character:
        with pytest.raises(ValueError):
            OpaqueToken.parse(text[:at] + character + text[at + 1 :])


def test_the_bits_left_over_in_the_last_character_are_not_ignored() -> None:
    text = OpaqueToken.generate(OpaqueKind.SESSION).text()
    accepted = 0
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        try:
            OpaqueToken.parse(text[:-1] + last)
        except ValueError:
            continue
        accepted += 1
    assert accepted == 1


@given(st.text(max_size=120))
def test_no_arbitrary_text_is_parsed_as_a_token(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        OpaqueToken.parse(text)
    assert len(text) < 8 or text not in str(caught.value)


def test_no_session_id_looks_like_an_option() -> None:
    assert not any(new_session_id().startswith("-") for _ in range(2000))


def test_no_repr_contains_the_secret() -> None:
    token = OpaqueToken.generate(OpaqueKind.SESSION)
    assert token.text()[30:60] not in repr(token)
    assert repr(token.secret)[2:-1] not in repr(token)
