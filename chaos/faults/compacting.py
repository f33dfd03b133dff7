"""A compaction while a process is cut off: the revisions that it missed are gone when it reconnects."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names, links
from chaos.system.world import World

__all__ = ["COMPACT"]


def _draw(rng: random.Random, names: Names) -> Choices:
    part = rng.choice(names.ours)
    return {"part": part, "links": [(part, member) for member in names.etcds]}


def _begin(world: World, choices: Choices) -> str:
    # With a reset: the process has to resume its watch from a revision that is compacted by then.
    world.links.refuse((source, destination) for source, destination in choices["links"])
    return f"cut {choices['part']} from etcd, and compact"


def _end(world: World, choices: Choices) -> None:
    try:
        world.cluster.compact()
    finally:
        world.mend((source, destination) for source, destination in choices["links"])


COMPACT: Final = Kind(
    name="compact",
    weight=6,
    lasts=(1.0, 6.0),
    draw=_draw,
    claims=lambda choices, _: links(choices["links"]),
    begin=_begin,
    end=_end,
)
