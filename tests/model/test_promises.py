"""The protocol keeps its promises in every state of the model. A protocol with one rule broken does not."""

from __future__ import annotations

from dataclasses import fields

import pytest

from model.rules import AS_BUILT, Rules
from model.search import explore
from model.variants import BROKEN, SPARE, Variant
from model.world import World
from model.worlds import WORLDS


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_every_promise_is_kept_in_every_state(world: World) -> None:
    result = explore(world)
    assert result.broken is None, result.described()
    assert result.states > 10_000, "the world has become too small to prove anything"


@pytest.mark.parametrize("variant", BROKEN, ids=lambda variant: variant.name)
def test_a_protocol_with_a_broken_rule_is_caught(variant: Variant) -> None:
    result = explore(variant.world_to_search())
    assert result.broken is not None
    assert result.trace
    assert result.described().endswith(result.broken)


@pytest.mark.parametrize("variant", SPARE, ids=lambda variant: variant.name)
def test_a_rule_can_be_left_out_where_another_rule_suffices(variant: Variant) -> None:
    result = explore(variant.world_to_search())
    assert result.broken is None, result.described()


OTHER_WORLDS = tuple({variant.world.name: variant.world for variant in BROKEN if variant.world not in WORLDS}.values())
"""The worlds of the broken protocols that test_every_promise_is_kept_in_every_state does not search."""


@pytest.mark.parametrize("world", OTHER_WORLDS, ids=lambda world: world.name)
def test_a_broken_rule_and_not_the_world_causes_what_is_caught(world: World) -> None:
    """The same world with the protocol as built breaks no promise."""
    result = explore(world)
    assert result.broken is None, result.described()


def test_every_broken_rule_is_searched_in_its_world_as_built_too() -> None:
    assert {variant.world for variant in BROKEN} <= {*WORLDS, *OTHER_WORLDS}


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
