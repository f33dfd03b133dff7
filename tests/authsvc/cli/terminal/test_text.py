"""Untrusted text cannot control a terminal, and is aligned in tables."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.cli.terminal.text import columns_of, pad, printable


@given(st.text())
def test_printable_text_holds_no_control_and_no_format_character(text: str) -> None:
    assert not {unicodedata.category(character) for character in printable(text)} & {
        "Cc",
        "Cf",
        "Cs",
        "Co",
        "Cn",
        "Zl",
        "Zp",
    }


@given(st.text())
def test_printable_text_is_not_changed_again(text: str) -> None:
    once = printable(text)
    assert printable(once) == once


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alice", "alice"),
        ("Zoë 愛", "Zoë 愛"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\nb", "a\\nb"),
        ("\u202eecila", "\\u202eecila"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
    ],
)
def test_what_controls_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(("text", "columns"), [("", 0), ("alice", 5), ("愛", 2), ("é", 1), ("e\u0301", 1)])
def test_the_width_of_text_is_that_on_a_terminal(text: str, columns: int) -> None:
    assert columns_of(text) == columns
    assert columns_of(pad(text, 8)) == 8
