"""Cuts between any two parts: both ways or one way, silent or with a reset."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names, links
from chaos.faults.routes import described, draw_links
from chaos.system.network import LinkCondition
from chaos.system.world import World

__all__ = ["CUT"]

_HELD: Final = LinkCondition(held=True)


def _draw(rng: random.Random, names: Names) -> Choices:
    return {
        "links": draw_links(rng, names),
        "manner": rng.choice(("silent", "silent", "reset", "one way there", "one way back")),
    }


def _begin(world: World, choices: Choices) -> str:
    pairs = [(source, destination) for source, destination in choices["links"]]
    match choices["manner"]:
        case "reset":
            world.links.refuse(pairs)
        case "one way there":
            world.links.set_conditions(dict.fromkeys(pairs, _HELD))
        case "one way back":
            world.links.set_conditions({(destination, source): _HELD for source, destination in pairs})
        case _:
            world.links.set_conditions(dict.fromkeys([*pairs, *((b, a) for a, b in pairs)], _HELD))
    return f"cut {described(pairs)} ({choices['manner']})"


def _end(world: World, choices: Choices) -> None:
    world.mend((source, destination) for source, destination in choices["links"])


CUT: Final = Kind(
    name="cut",
    weight=26,
    lasts=(0.5, 9.0),
    draw=_draw,
    claims=lambda choices, _: links(choices["links"]),
    begin=_begin,
    end=_end,
)
