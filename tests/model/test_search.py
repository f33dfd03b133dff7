"""What the search says can be relied on: nothing is left out, the way is the shortest, and it can be followed."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from model.rules import Rules
from model.search import explore
from model.small import Small
from model.state import Left, State
from model.variants import BROKEN
from model.worlds import ONE_HOLDER, RECEIPTS, ROTATION, World


def all_states(world: World) -> dict[State, int]:
    """Every state without any reduction, and its distance from the beginning."""
    depths = dict.fromkeys(world.beginnings, 0)
    queue = deque(world.beginnings)
    while queue:
        state = queue.popleft()
        for action in world.actions:
            for _, after in action(state, world):
                if after not in depths:
                    depths[after] = depths[state] + 1
                    queue.append(after)
    return depths


def smaller(world: World, left: Left) -> World:
    """The world with less to happen in it."""
    return replace(world, beginnings=tuple(state._replace(left=left) for state in world.beginnings[:1]))


def test_making_states_small_leaves_out_no_state_and_invents_none() -> None:
    """Rotation has all of the reductions: nodes and replicas that change places, and a past that is forgotten."""
    world = smaller(ROTATION, Left(faults=1, rotations=1))
    small = Small(world)
    everything = all_states(world)
    found = explore(world)
    assert found.states == len({small(state) for state in everything})
    assert found.states < len(everything) / 2
    assert found.depth == max(_shortest(everything, small).values())


def _shortest(depths: dict[State, int], small: Small) -> dict[State, int]:
    shortest: dict[State, int] = {}
    for state, depth in depths.items():
        one = small(state)
        shortest[one] = min(depth, shortest.get(one, depth))
    return shortest


def test_what_is_broken_is_broken_in_every_state_that_is_taken_for_the_same() -> None:
    world = smaller(ROTATION, Left(faults=1, rotations=1)).under(Rules(wait_for_acks=False))
    small = Small(world)
    for state in all_states(world):
        here = [invariant(state, world) is None for invariant in world.invariants]
        assert here == [invariant(small(state), world) is None for invariant in world.invariants]


def test_the_way_to_a_broken_promise_is_the_shortest() -> None:
    world = smaller(ONE_HOLDER, Left(faults=1, rotations=1)).under(Rules(wait_for_acks=False))
    found = explore(world)
    nearest = min(
        depth
        for state, depth in all_states(world).items()
        if any(invariant(state, world) is not None for invariant in world.invariants)
    )
    assert len(found.trace) == nearest == found.depth


def test_a_way_names_each_node_by_one_name_from_first_to_last() -> None:
    """Sorting the nodes changes their places; who reads the way must not notice. Here both nodes do something."""
    world = smaller(ROTATION, Left(rotations=1)).under(Rules(wait_for_acks=False))
    trace = explore(world).trace
    state = world.beginnings[0]
    for text in trace:
        after = [after for action in world.actions for told, after in action(state, world) if told == text]
        assert len(after) == 1, text
        state = after[0]
    assert any(invariant(state, world) is not None for invariant in world.invariants)


def test_a_goal_that_cannot_be_reached_any_more_is_found() -> None:
    variant = next(variant for variant in BROKEN if variant.name == "acks-not-repeated")
    found = explore(variant.searched())
    assert found.broken is not None
    assert "cannot be finished" in found.broken
    assert any("etcd does not answer" in text for text in found.trace)


def test_a_watched_node_can_have_every_fate() -> None:
    """The receipts' world follows the calls of one node only; that is all of them if the node may do what any may."""
    seen = {
        text.partition(" node A ")[2] or text
        for state in list(all_states(smaller(RECEIPTS, Left(faults=1, calls=1))))[:20_000]
        for action in RECEIPTS.actions
        for text, _ in action(state, RECEIPTS)
    }
    assert any("dies" in text for text in seen)
    assert any("runs out" in text for text in seen)
