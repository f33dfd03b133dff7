"""A restored backup: etcd returns to its state of some seconds ago, as the same cluster or as a new one.

Processes that remember lost commits find the loss. Processes that are restarted together with etcd cannot.
"""

from __future__ import annotations

import random
from typing import Final

from chaos.faults.kind import Choices, Kind, Names, links, process
from chaos.system.world import World

__all__ = ["RESTORE"]


def _draw(rng: random.Random, names: Names) -> Choices:
    restarted = rng.choice((0, 0, len(names.ours), len(names.ours), rng.randint(1, len(names.ours) - 1)))
    return {"new_cluster": rng.random() < 0.5, "restarted": sorted(rng.sample(names.ours, restarted))}


def _claims(choices: Choices, names: Names) -> list[str]:
    between = links((a, b) for a in names.etcds for b in names.etcds if a != b)
    return ["quota", "quorum", *map(process, (*names.etcds, *choices["restarted"])), *between]


def _begin(world: World, choices: Choices) -> str:
    world.backup_count += 1
    world.cluster.snapshot(world.folder / f"backup-{world.backup_count}")
    what = "restore it as a new cluster" if choices["new_cluster"] else "restore it as the same cluster"
    restarted = ", ".join(choices["restarted"]) or "no process"
    return f"back etcd up, and later {what}, with {restarted} restarted"


def _end(world: World, choices: Choices) -> None:
    backup = world.folder / f"backup-{world.backup_count}"
    with world.restoring():
        for name in choices["restarted"]:
            world.parts[name].kill()
        world.cluster.restore(backup, new_cluster=choices["new_cluster"])
        for name in choices["restarted"]:
            world.parts[name].start()


RESTORE: Final = Kind(
    name="restore",
    weight=2,
    lasts=(2.0, 8.0),
    draw=_draw,
    claims=_claims,
    begin=_begin,
    end=_end,
)
