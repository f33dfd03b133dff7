"""Changes of leaders: etcd's, and the auth service's."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names
from chaos.system.world import World

__all__ = ["DEPOSE", "MOVE"]


def _draw(rng: random.Random, names: Names) -> Choices:
    return {"to": rng.choice(names.etcds)}


def _begin(world: World, choices: Choices) -> str:
    world.cluster.move_leader(choices["to"])
    return f"etcd's leader moves to {choices['to']}"


def _nothing(_world: World, _choices: Choices) -> None:
    return None


MOVE: Final = Kind(
    name="move", weight=8, lasts=(0.1, 0.1), draw=_draw, claims=lambda *_: [], begin=_begin, end=_nothing
)


def _depose(world: World, _choices: Choices) -> str:
    world.cluster.delete(world.layout.leader)
    return "the leader's record is deleted: the auth service's leader is deposed"


DEPOSE: Final = Kind(
    name="depose",
    weight=6,
    lasts=(0.1, 0.1),
    draw=lambda *_: {},
    claims=lambda *_: [],
    begin=_depose,
    end=_nothing,
)
