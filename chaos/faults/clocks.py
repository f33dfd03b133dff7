"""A process's wall clock that is wrong by minutes."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names
from chaos.system.world import World

__all__ = ["CLOCK"]


def _draw(rng: random.Random, names: Names) -> Choices:
    return {"part": rng.choice(names.ours), "ahead": round(rng.choice((-1, 1)) * rng.uniform(60, 600))}


def _begin(world: World, choices: Choices) -> str:
    world.set_wall_clock(world.parts[choices["part"]], choices["ahead"])
    return f"set the clock of {choices['part']} by {choices['ahead']:+d} s"


def _end(world: World, choices: Choices) -> None:
    world.set_wall_clock(world.parts[choices["part"]], 0.0)


CLOCK: Final = Kind(
    name="clock",
    weight=8,
    lasts=(1.0, 8.0),
    draw=_draw,
    claims=lambda choices, _: [f"clock {choices['part']}"],
    begin=_begin,
    end=_end,
)
