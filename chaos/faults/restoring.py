"""A backup that is restored: etcd goes back to what it was seconds ago, as the same cluster or as a new one."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names, links, process
from chaos.world import World

__all__ = ["RESTORE"]


def _draw(rng: random.Random, _names: Names) -> Choices:
    return {"new_cluster": rng.random() < 0.5}


def _claims(_choices: Choices, names: Names) -> list[str]:
    between = links((a, b) for a in names.etcds for b in names.etcds if a != b)
    return ["quota", "quorum", *map(process, names.etcds), *between]


def _begin(world: World, _choices: Choices) -> str:
    world.backups += 1
    world.cluster.snapshot(world.folder / f"backup-{world.backups}")
    return f"back etcd up (backup {world.backups})"


def _end(world: World, choices: Choices) -> None:
    backup = world.folder / f"backup-{world.backups}"
    with world.restoring():
        world.cluster.restore(backup, new_cluster=choices["new_cluster"])


RESTORE: Final = Kind(
    name="restore",
    weight=1,
    lasts=(2.0, 8.0),
    draw=_draw,
    claims=_claims,
    begin=_begin,
    end=_end,
)
