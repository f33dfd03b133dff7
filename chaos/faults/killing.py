"""Processes that are killed, and started again later."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names, process
from chaos.system.world import World

__all__ = ["KILL", "OUTAGE"]


def _draw(rng: random.Random, names: Names) -> Choices:
    return {"part": rng.choice(names.parts)}


def _begin(world: World, choices: Choices) -> str:
    world.parts[choices["part"]].kill()
    return f"kill -9 {choices['part']}"


def _end(world: World, choices: Choices) -> None:
    world.parts[choices["part"]].start()


KILL: Final = Kind(
    name="kill",
    weight=20,
    lasts=(0.1, 4.0),
    draw=_draw,
    claims=lambda choices, _: [process(choices["part"])],
    begin=_begin,
    end=_end,
)


def _draw_outage(rng: random.Random, names: Names) -> Choices:
    return {"parts": sorted(rng.sample(names.etcds, rng.choice((2, 3)))), "frozen": rng.random() < 0.4}


def _begin_outage(world: World, choices: Choices) -> str:
    for name in choices["parts"]:
        part = world.parts[name]
        part.freeze() if choices["frozen"] else part.kill()
    return f"{'freeze' if choices['frozen'] else 'kill -9'} {', '.join(choices['parts'])}: no quorum"


def _end_outage(world: World, choices: Choices) -> None:
    if choices["frozen"]:
        for name in choices["parts"]:
            world.parts[name].thaw()
    else:
        world.cluster.start_members(choices["parts"])


OUTAGE: Final = Kind(
    name="outage",
    weight=4,
    lasts=(1.0, 7.0),
    draw=_draw_outage,
    claims=lambda choices, _: ["quorum", *map(process, choices["parts"])],
    begin=_begin_outage,
    end=_end_outage,
)
