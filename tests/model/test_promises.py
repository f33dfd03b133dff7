"""The protocol keeps its promises in every state that the model can be in; protocols with a rule broken do not."""

from __future__ import annotations

from dataclasses import fields

import pytest

from model.rules import AS_BUILT, Rules
from model.search import explore
from model.variants import BROKEN, SPARE, Variant
from model.worlds import WORLDS, World


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_every_promise_is_kept_in_every_state(world: World) -> None:
    found = explore(world)
    assert found.broken is None, found.told()
    assert found.states > 10_000, "the world has become too small to say anything"


@pytest.mark.parametrize("variant", BROKEN, ids=lambda variant: variant.name)
def test_a_protocol_with_a_broken_rule_is_caught(variant: Variant) -> None:
    found = explore(variant.searched())
    assert found.broken is not None
    assert found.trace
    assert found.told().endswith(found.broken)


@pytest.mark.parametrize("variant", SPARE, ids=lambda variant: variant.name)
def test_a_rule_that_another_one_makes_up_for_may_go(variant: Variant) -> None:
    found = explore(variant.searched())
    assert found.broken is None, found.told()


@pytest.mark.parametrize("variant", BROKEN, ids=lambda variant: variant.name)
def test_what_is_caught_is_not_found_where_the_rule_holds(variant: Variant) -> None:
    """In the same world, with our protocol: so it is the rule that makes the difference, and not the world."""
    if variant.world in WORLDS:
        pytest.skip("that world is searched with our protocol anyway")
    found = _searched_once(variant.world)
    assert found is None, found


_searched: dict[str, str | None] = {}


def _searched_once(world: World) -> str | None:
    if world.name not in _searched:
        _searched[world.name] = explore(world).broken
    return _searched[world.name]


def test_every_rule_is_broken_by_some_variant() -> None:
    broken = {
        field.name
        for field in fields(Rules)
        for variant in BROKEN
        if getattr(variant.rules, field.name) != getattr(AS_BUILT, field.name)
    }
    assert broken == {field.name for field in fields(Rules)}


def test_names_are_given_once() -> None:
    names = [world.name for world in WORLDS] + [variant.name for variant in (*BROKEN, *SPARE)]
    assert len(names) == len(set(names))
