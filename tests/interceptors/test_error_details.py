"""The details of a refusal are small enough for every client, whatever they name."""

from __future__ import annotations

import pytest

from interceptors.error_details import DETAILS_KEY, cut, error_info_in
from interceptors.errors import Reason, Refusal, reason_of

_MAX_BYTES = 2500  # 3.3 KB in base64; clients of gRPC accept 8 KB in total


@pytest.mark.parametrize(
    "metadata",
    [
        {"scope": " ".join(f"scope-{number}" for number in range(10_000))},
        {"scope": "x" * 100_000},
        {"scope": "ü" * 100_000},
        {f"list-{number:04}": "a b c" for number in range(1000)},
        {"k" * 100_000: "v"},
        {"scope": "a " * 5000, "audience": "b " * 5000},
    ],
)
def test_the_details_of_a_refusal_have_a_bound(metadata: dict[str, str]) -> None:
    trailing = Refusal(Reason.SCOPE_MISSING, metadata=metadata).trailing_metadata()
    ((key, value),) = trailing
    assert key == DETAILS_KEY
    assert len(value) < _MAX_BYTES
    assert reason_of(trailing) is Reason.SCOPE_MISSING


def test_a_short_list_is_sent_as_it_is() -> None:
    info = error_info_in(Refusal(Reason.SCOPE_MISSING, metadata={"scope": "a b"}).trailing_metadata())
    assert info is not None
    assert dict(info.metadata) == {"scope": "a b"}


@pytest.mark.parametrize(
    ("text", "max_bytes", "expected"),
    [
        ("one two", 7, "one two"),
        ("one two three", 9, "one two …"),
        ("onetwo", 3, "one…"),
        ("üüü", 3, "ü…"),
        ("", 0, ""),
    ],
)
def test_a_text_is_cut_after_a_whole_word(text: str, max_bytes: int, expected: str) -> None:
    assert cut(text, max_bytes) == expected
