"""A revocation scope names one thing, whatever characters its name has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interceptors.scopes import (
    EVERYONE,
    audience_scope,
    client_scope,
    key_scope,
    session_of_scope,
    session_scope,
    subject_of_scope,
    subject_scope,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]))


@given(NAMES)
def test_a_scope_gives_back_the_name_that_it_was_made_of(name: str) -> None:
    assert session_of_scope(session_scope(name)) == name
    assert subject_of_scope(subject_scope(name)) == name


@given(NAMES)
def test_a_scope_of_another_kind_names_no_session_and_no_subject(name: str) -> None:
    for scope in (EVERYONE, client_scope(name), audience_scope(name), key_scope(name)):
        assert session_of_scope(scope) is None
        assert subject_of_scope(scope) is None
    assert session_of_scope(subject_scope(name)) is None
    assert subject_of_scope(session_scope(name)) is None


@given(NAMES)
def test_a_name_cannot_leave_its_scope(name: str) -> None:
    assert session_scope(name).count("/") == 1
