"""Plans: a seed always gives the same plan, and concurrent faults never affect the same thing."""

from __future__ import annotations

import itertools

import pytest

from chaos.faults import KINDS
from chaos.plan import SETTLE_SECONDS, draw_plan
from chaos.run import part_names
from chaos.shapes import draw_shape
from chaos.system.world import Shape

NAMES = part_names(Shape())


def test_a_seed_always_gives_the_same_plan() -> None:
    assert draw_plan(7, 120, NAMES) == draw_plan(7, 120, NAMES)
    assert draw_plan(7, 120, NAMES) != draw_plan(8, 120, NAMES)


def test_a_seed_always_gives_the_same_shape_and_seeds_differ() -> None:
    """The lease can be shorter than the freshness: a node that is cut off loses its registration and still serves."""
    worlds = [draw_shape(seed) for seed in range(20)]
    assert worlds == [draw_shape(seed) for seed in range(20)]
    assert {world.freshness > world.node_lease for world in worlds} == {True, False}


def test_a_backup_is_restored_with_no_process_some_or_all_restarted() -> None:
    faults = [fault for seed in range(40) for fault in draw_plan(seed, 180, NAMES).faults if fault.kind == "restore"]
    restarted = {len(fault.choices["restarted"]) for fault in faults}
    assert {0, len(NAMES.ours)} < restarted


def test_every_kind_of_fault_is_drawn_except_excluded_ones() -> None:
    drawn = {fault.kind for seed in range(20) for fault in draw_plan(seed, 180, NAMES).faults}
    assert drawn == set(KINDS)
    assert not any(fault.kind == "restore" for fault in draw_plan(1, 1800, NAMES, without=["restore"]).faults)


def test_a_link_between_members_of_etcd_can_be_cut_one_way() -> None:
    """A link that was drawn in both directions would be held both ways, regardless of the manner."""
    faults = [fault for seed in range(20) for fault in draw_plan(seed, 180, NAMES).faults]
    drawn = [fault.choices for fault in faults if fault.kind in ("cut", "slow")]
    assert not any(tuple(reversed(pair)) in choices["links"] for choices in drawn for pair in choices["links"])
    between = {choices["manner"] for choices in drawn if "manner" in choices and choices["links"][0][0] in NAMES.etcds}
    assert {"one way there", "one way back", "reset"} <= between


def test_one_member_of_etcd_is_cut_from_all_processes_of_credmesh() -> None:
    faults = [fault for seed in range(20) for fault in draw_plan(seed, 180, NAMES).faults]
    wide_cuts = [fault.choices["links"] for fault in faults if fault.kind == "cut" and len(fault.choices["links"]) > 3]
    assert wide_cuts
    assert all(len({destination for _, destination in links}) == 1 for links in wide_cuts)


@pytest.mark.parametrize("seed", range(20))
def test_no_two_faults_touch_the_same_thing_at_the_same_time(seed: int) -> None:
    """Otherwise the end of one would undo the other."""
    faults = draw_plan(seed, 180, NAMES).faults
    for one, other in itertools.combinations(faults, 2):
        if one.at < other.until and other.at < one.until:
            claims = [set(KINDS[fault.kind].claims(fault.choices, NAMES)) for fault in (one, other)]
            assert not claims[0] & claims[1], (one, other)


@pytest.mark.parametrize("seed", range(5))
def test_all_faults_have_ended_before_a_calm_begins(seed: int) -> None:
    plan = draw_plan(seed, 180, NAMES)
    assert plan.calms[-1].ends == pytest.approx(plan.seconds)
    for calm in plan.calms:
        assert calm.settled == pytest.approx(calm.begins + SETTLE_SECONDS)
        assert not any(fault.at < calm.ends and calm.begins < fault.until for fault in plan.faults)


def test_there_are_enough_faults_for_a_thousand_in_an_hour() -> None:
    assert sum(len(draw_plan(seed, 180, NAMES).faults) for seed in range(20)) > 1000
