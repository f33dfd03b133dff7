"""An etcd whose quota is used up: it raises its alarm, and accepts no writes until an operator frees space."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names
from chaos.system.world import World

__all__ = ["FILL", "JUNK"]

JUNK: Final = "/junk/"


def _draw(_rng: random.Random, _names: Names) -> Choices:
    return {}


def _begin(world: World, _choices: Choices) -> str:
    world.cluster.fill(JUNK)
    return "fill etcd up to its quota"


def _end(world: World, _choices: Choices) -> None:
    world.cluster.free(JUNK)


FILL: Final = Kind(
    name="fill",
    weight=2,
    lasts=(0.5, 4.0),
    draw=_draw,
    claims=lambda *_: ["quota"],
    begin=_begin,
    end=_end,
)
