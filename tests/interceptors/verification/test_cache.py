"""The cache of verified credentials: bounded, and it keeps the recently used entries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interceptors.verification.cache import TwoGenerationCache


@given(st.integers(0, 20), st.lists(st.integers(0, 40), max_size=200))
def test_it_holds_at_most_twice_its_size_and_never_a_wrong_value(size: int, keys: list[int]) -> None:
    cache: TwoGenerationCache[int] = TwoGenerationCache(size)
    for key in keys:
        cache.put(str(key), key)
        assert len(cache) <= 2 * size
        for one in range(41):
            assert cache.get(str(one)) in (None, one)


@given(st.integers(1, 20), st.lists(st.integers(0, 40), max_size=200))
def test_the_most_recently_used_entries_are_kept(size: int, keys: list[int]) -> None:
    """With as many callers as entries, no credential is verified twice, in whatever order they call."""
    cache: TwoGenerationCache[int] = TwoGenerationCache(size)
    used: list[int] = []
    for key in keys:
        found = cache.get(str(key))
        assert found == (key if key in used[-size:] else found)
        if found is None:
            cache.put(str(key), key)
        used = [other for other in used if other != key] + [key]


@given(st.integers(4, 20), st.integers(0, 200))
def test_an_entry_that_is_used_between_any_others_stays(size: int, others: int) -> None:
    cache: TwoGenerationCache[int] = TwoGenerationCache(size)
    cache.put("used", -1)
    for other in range(others):
        cache.put(str(other), other)
        assert cache.get("used") == -1


def test_a_dropped_entry_is_gone_from_both_generations() -> None:
    cache: TwoGenerationCache[int] = TwoGenerationCache(4)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("c", 3)
    for key in "abc":
        cache.drop(key)
        assert cache.get(key) is None
