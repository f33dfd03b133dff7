"""Which links a fault of the network befalls."""

from __future__ import annotations

import random

from chaos.faults.kind import Names
from chaos.system.world import CLIENTS

__all__ = ["described", "draw_links"]

Links = list[tuple[str, str]]


def draw_links(rng: random.Random, names: Names) -> Links:
    """Some links that make sense together, each from the one who connects to the one who listens.

    Members of etcd connect to each other both ways: a link of theirs is drawn once, or else no cut of it would ever be
    one way only.
    """
    one, alone = rng.choice(names.ours), rng.choice(names.etcds)
    choices: list[Links] = [
        # A process from all of etcd; twice, since it is what the whole design is about.
        [(one, member) for member in names.etcds],
        [(one, member) for member in names.etcds],
        # From some of etcd only.
        [(one, member) for member in rng.sample(names.etcds, rng.choice((1, 2)))],
        # One member of etcd from the others.
        [(alone, other) for other in names.etcds if other != alone],
        # One member of etcd from everybody else.
        [(part, alone) for part in names.ours],
        # Callers from a process, and nodes from the auth service.
        [(CLIENTS, one)],
        [(rng.choice(names.nodes), auth) for auth in names.auths],
    ]
    return sorted(set(rng.choice(choices)))


def described(links: Links) -> str:
    """For people."""
    return ", ".join(f"{source}-{destination}" for source, destination in links)
