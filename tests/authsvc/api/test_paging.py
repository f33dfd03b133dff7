"""Paging: every item once, also if items are added or deleted between the pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.api.paging import page
from authsvc.errors import InvalidField
from interceptors.tokens import base64url


def _walk(items: set[str], size: int) -> list[str]:
    seen: list[str] = []
    token = ""
    for _ in range(len(items) + 1):
        found, token = page(items, name=str, size=size, token=token)
        assert 0 < len(found) <= size or not items
        seen += found
        if not token:
            return seen
    pytest.fail("more pages than items")


@given(st.sets(st.text(min_size=1), max_size=30), st.integers(1, 10))
def test_the_pages_together_are_the_list_in_order(items: set[str], size: int) -> None:
    assert _walk(items, size) == sorted(items)


def test_a_page_continues_after_an_item_that_was_deleted() -> None:
    first, token = page(["a", "b", "c", "d"], name=str, size=2, token="")
    assert first == ["a", "b"]
    assert page(["a", "c", "d", "aa"], name=str, size=2, token=token) == (["c", "d"], "")


def test_without_a_size_a_page_has_a_hundred() -> None:
    found, token = page([f"{i:04}" for i in range(101)], name=str, size=0, token="")
    assert len(found) == 100
    assert token


@pytest.mark.parametrize("size", [-1, 1001])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(InvalidField, match=r"^page_size "):
        page(["a"], name=str, size=size, token="")


@pytest.mark.parametrize(
    "token",
    ["x", "!", "ä", "AAAA", base64url.encode(b"2:a"), base64url.encode(b"1:\xff")],
)
def test_a_foreign_page_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidField, match=r"^page_token "):
        page(["a"], name=str, size=1, token=token)
