"""Validation of fields: what is accepted, and that a refusal names the field and quotes no value."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.api import validate
from authsvc.errors import InvalidField

_scope_token = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


@pytest.mark.parametrize("good", ["alice", "a", "x" * 256, "Ålice Ünal", "日本", "a/b:c@d", "..", "%2e"])
def test_a_name_may_hold_any_printable_character(good: str) -> None:
    assert validate.name("subject", good) == good


@pytest.mark.parametrize(
    "bad", ["", "x" * 257, "a\nb", "\x00", "tab\there", "del\x7f", "\x85", "line\u2028end", "par\u2029", "a\x1b[31m"]
)
def test_an_invalid_name_is_refused_with_its_field(bad: str) -> None:
    with pytest.raises(InvalidField) as refused:
        validate.name("user.subject", bad)
    assert refused.value.field == "user.subject"
    assert str(refused.value).startswith("user.subject ")
    assert not bad or bad not in str(refused.value)


@given(st.text(min_size=1, max_size=20))
def test_exactly_the_scope_tokens_of_rfc_6749_are_scopes(text: str) -> None:
    if _scope_token.fullmatch(text):
        assert validate.scopes("scopes", [text]) == (text,)
    else:
        with pytest.raises(InvalidField, match=r"^scopes "):
            validate.scopes("scopes", [text])


@pytest.mark.parametrize("bad", ["", "two scopes", 'quo"te', "back\\slash", "ümlaut", "x" * 257])
def test_an_invalid_scope_is_refused(bad: str) -> None:
    with pytest.raises(InvalidField, match=r"^scopes "):
        validate.scopes("scopes", ["shop.read", bad])


def test_duplicates_are_dropped_and_the_order_is_kept() -> None:
    assert validate.scopes("scopes", ["b", "a", "b"]) == ("b", "a")
    assert validate.audiences("audiences", ["orders", "orders"]) == ("orders",)


def test_lists_are_bounded() -> None:
    assert len(validate.audiences("audiences", [f"a{i}" for i in range(32)])) == 32
    with pytest.raises(InvalidField, match=r"^audiences has more than 32 elements$"):
        validate.audiences("audiences", [f"a{i}" for i in range(33)])
    with pytest.raises(InvalidField, match=r"^scopes has more than 256 elements$"):
        validate.scopes("scopes", [f"s{i}" for i in range(257)])


def test_an_audience_need_not_exist() -> None:
    assert validate.audiences("audiences", ["a service of next year"]) == ("a service of next year",)


def test_a_password_to_check_may_be_short_but_not_huge() -> None:
    assert validate.password("password", "x") == "x"
    assert validate.password("password", "ä" * 512) == "ä" * 512
    for bad in ("", "x" * 1025, "ä" * 513):
        with pytest.raises(InvalidField, match=r"^password "):
            validate.password("password", bad)


def test_a_password_to_set_has_eight_bytes_at_least() -> None:
    assert validate.new_password("password", "12345678") == "12345678"
    with pytest.raises(InvalidField, match=r"^password is shorter than 8 bytes$"):
        validate.new_password("password", "1234567")


def test_a_refused_password_or_token_is_not_quoted() -> None:
    for check, secret in ((validate.new_password, "hunter2"), (validate.token, "s3cret" * 4000)):
        with pytest.raises(InvalidField) as refused:
            check("field", secret)
        assert secret not in str(refused.value)


def test_a_reason_may_be_empty_and_is_one_line() -> None:
    assert validate.reason("reason", "") == ""
    for bad in ("x" * 1025, "two\nlines"):
        with pytest.raises(InvalidField, match=r"^reason "):
            validate.reason("reason", bad)
