"""What a credential is granted, given the request and the account."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.sessions.grants import Grant, grant, narrow_grant
from interceptors.errors import Reason, Refusal

ALICE = Grant(scopes=("shop.buy", "shop.read"), audiences=("inventory", "storefront"))
_names = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=6)


def _account(scopes: list[str], audiences: list[str]) -> Grant:
    return Grant(tuple(scopes), tuple(audiences))


def test_an_empty_request_is_granted_all_that_the_account_holds() -> None:
    assert grant(ALICE) == ALICE


def test_a_request_for_less_is_granted_no_more() -> None:
    assert grant(ALICE, scopes=["shop.read"], audiences=["storefront"]) == Grant(("shop.read",), ("storefront",))


def test_a_scope_that_is_not_held_is_refused_by_name() -> None:
    with pytest.raises(Refusal) as refused:
        grant(ALICE, scopes=["shop.read", "shop.admin"])
    assert refused.value.reason is Reason.SCOPE_MISSING
    assert refused.value.metadata == (("scope", "shop.admin"),)


def test_an_audience_that_is_not_held_is_refused_by_name() -> None:
    with pytest.raises(Refusal) as refused:
        grant(ALICE, audiences=["vault"])
    assert refused.value.reason is Reason.AUDIENCE_MISMATCH
    assert refused.value.metadata == (("audience", "vault"),)


def test_an_account_without_audiences_gets_no_credential() -> None:
    with pytest.raises(Refusal) as refused:
        grant(Grant(("shop.read",), ()))
    assert refused.value.reason is Reason.AUDIENCE_MISMATCH


@settings(deadline=None)
@given(held=st.tuples(_names, _names), asked=st.tuples(_names, _names))
def test_nothing_is_granted_that_was_not_requested_or_is_not_held(
    held: tuple[list[str], list[str]], asked: tuple[list[str], list[str]]
) -> None:
    try:
        granted = grant(_account(*held), scopes=asked[0], audiences=asked[1])
    except Refusal:
        assert not set(asked[0]) <= set(held[0]) or not set(asked[1]) <= set(held[1]) or not held[1]
        return
    assert set(granted.scopes) == set(asked[0] or held[0])
    assert set(granted.audiences) == set(asked[1] or held[1])
    assert set(granted.scopes) <= set(held[0])
    assert set(granted.audiences) <= set(held[1])


@settings(deadline=None)
@given(earlier=st.tuples(_names, _names), now=st.tuples(_names, _names))
def test_an_earlier_grant_never_grows(earlier: tuple[list[str], list[str]], now: tuple[list[str], list[str]]) -> None:
    left = narrow_grant(_account(*earlier), _account(*now))
    assert set(left.scopes) == set(earlier[0]) & set(now[0])
    assert set(left.audiences) == set(earlier[1]) & set(now[1])
    assert narrow_grant(left, _account(*now)) == left
