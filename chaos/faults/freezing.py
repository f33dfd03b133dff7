"""Processes that are stopped (SIGSTOP) and continued, after less or more time than their leases last."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names, process
from chaos.system.world import World

__all__ = ["FREEZE", "STALL"]


def _draw(rng: random.Random, names: Names) -> Choices:
    return {"part": rng.choice(names.parts)}


def _begin(world: World, choices: Choices) -> str:
    world.parts[choices["part"]].freeze()
    return f"freeze {choices['part']}"


def _end(world: World, choices: Choices) -> None:
    world.parts[choices["part"]].thaw()


FREEZE: Final = Kind(
    name="freeze",
    weight=14,
    lasts=(3.0, 9.0),
    draw=_draw,
    claims=lambda choices, _: [process(choices["part"])],
    begin=_begin,
    end=_end,
)
"""Lasts about as long as a lease, up to twice that."""

STALL: Final = Kind(
    name="stall",
    weight=10,
    lasts=(0.05, 1.5),
    draw=_draw,
    claims=lambda choices, _: [process(choices["part"])],
    begin=_begin,
    end=_end,
)
"""Lasts like a garbage collection, or the migration of a virtual machine."""
