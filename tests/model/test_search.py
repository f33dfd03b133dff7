"""The search is right: it leaves out no state, finds the shortest path, and describes a path that can be followed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from model.reduction import StateReducer
from model.rules import Rules
from model.search import explore
from model.state import Budget, State
from model.variants import BROKEN
from model.world import World
from model.worlds import ONE_HOLDER, RECEIPTS, ROTATION


def all_states(world: World) -> dict[State, int]:
    """Returns every state, without any reduction, and its distance from the beginning."""
    return dict(nearest_states(world))


def nearest_states(world: World) -> Iterator[tuple[State, int]]:
    """Yields every state and its distance from the beginning, the nearest first."""
    depths = dict.fromkeys(world.beginnings, 0)
    queue = deque(world.beginnings)
    while queue:
        state = queue.popleft()
        yield state, depths[state]
        for action in world.actions:
            for _, after in action(state, world):
                if after not in depths:
                    depths[after] = depths[state] + 1
                    queue.append(after)


def smaller(world: World, left: Budget) -> World:
    """Returns the world with one beginning and a smaller budget."""
    return replace(world, beginnings=tuple(state._replace(budget=left) for state in world.beginnings[:1]))


def test_reducing_states_leaves_out_no_state_and_invents_none() -> None:
    """The world `rotation` uses all reductions: nodes and replicas are sorted, and old commits are dropped."""
    world = smaller(ROTATION, Budget(faults=1, rotations=1))
    reduce = StateReducer(world)
    everything = all_states(world)
    result = explore(world)
    assert result.states == len({reduce(state) for state in everything})
    assert result.states < len(everything) / 2
    assert result.depth == max(_shortest(everything, reduce).values())


def _shortest(depths: dict[State, int], reduce: StateReducer) -> dict[State, int]:
    shortest: dict[State, int] = {}
    for state, depth in depths.items():
        one = reduce(state)
        shortest[one] = min(depth, shortest.get(one, depth))
    return shortest


def test_equivalent_states_break_the_same_promises() -> None:
    world = smaller(ROTATION, Budget(faults=1, rotations=1)).under(Rules(wait_for_acks=False))
    reduce = StateReducer(world)
    for state in all_states(world):
        here = [invariant(state, world) is None for invariant in world.invariants]
        assert here == [invariant(reduce(state), world) is None for invariant in world.invariants]


def test_the_path_to_a_broken_promise_is_the_shortest() -> None:
    world = smaller(ONE_HOLDER, Budget(faults=1, rotations=1)).under(Rules(wait_for_acks=False))
    result = explore(world)
    nearest = min(
        depth
        for state, depth in all_states(world).items()
        if any(invariant(state, world) is not None for invariant in world.invariants)
    )
    assert len(result.trace) == nearest == result.depth


def test_a_path_gives_each_node_the_same_name_in_every_step() -> None:
    """Sorting the nodes changes their positions, and the described path must not show it. Here both nodes act."""
    world = smaller(ROTATION, Budget(rotations=1)).under(Rules(wait_for_acks=False))
    trace = explore(world).trace
    state = world.beginnings[0]
    for text in trace:
        after = [after for action in world.actions for told, after in action(state, world) if told == text]
        assert len(after) == 1, text
        state = after[0]
    assert any(invariant(state, world) is not None for invariant in world.invariants)


def test_a_state_that_cannot_reach_the_goal_any_more_is_found() -> None:
    variant = next(variant for variant in BROKEN if variant.name == "acks-not-repeated")
    result = explore(variant.world_to_search())
    assert result.broken is not None
    assert "cannot be finished" in result.broken
    assert any("etcd does not answer" in text for text in result.trace)


def test_every_fault_can_happen_to_the_node_whose_calls_are_followed() -> None:
    """The world `receipts` follows the calls of one node only. That covers all nodes if it can do what they do."""
    seen = {
        text.partition(" node A ")[2] or text
        for state, _ in islice(nearest_states(smaller(RECEIPTS, Budget(faults=1, calls=1))), 20_000)
        for action in RECEIPTS.actions
        for text, _ in action(state, RECEIPTS)
    }
    assert any("dies" in text for text in seen)
    assert any("runs out" in text for text in seen)
