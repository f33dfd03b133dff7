"""Links that are slow, and links that lose packets."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names, links
from chaos.faults.routes import described, draw_links
from chaos.system.network import LinkCondition
from chaos.system.world import World

__all__ = ["SLOW"]


def _draw(rng: random.Random, names: Names) -> Choices:
    return {
        "links": draw_links(rng, names),
        "delay": round(rng.choice((0.02, 0.1, 0.4, 1.2)) * rng.uniform(0.5, 1.0), 3),
        "loss": round(rng.choice((0.0, 0.0, 0.05, 0.3)), 3),
        "back_only": rng.random() < 0.4,
    }


def _begin(world: World, choices: Choices) -> str:
    pairs = [(source, destination) for source, destination in choices["links"]]
    way = LinkCondition(delay=choices["delay"], jitter=choices["delay"] / 2, loss=choices["loss"])
    ways = {(destination, source): way for source, destination in pairs}
    if not choices["back_only"]:
        ways |= dict.fromkeys(pairs, way)
    world.links.set_conditions(ways)
    return f"slow {described(pairs)} by {choices['delay']:g} s, loss {choices['loss']:g}"


def _end(world: World, choices: Choices) -> None:
    world.mend((source, destination) for source, destination in choices["links"])


SLOW: Final = Kind(
    name="slow",
    weight=16,
    lasts=(2.0, 9.0),
    draw=_draw,
    claims=lambda choices, _: links(choices["links"]),
    begin=_begin,
    end=_end,
)
