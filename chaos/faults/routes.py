"""Choosing the links that a fault of the network affects."""

from __future__ import annotations

import random

from chaos.faults.kind import Names
from chaos.system.world import CLIENTS

__all__ = ["described", "draw_links"]

Links = list[tuple[str, str]]


def draw_links(rng: random.Random, names: Names) -> Links:
    """Draws a meaningful set of links, each from the part that connects to the part that listens.

    Members of etcd connect to each other both ways. A link between two of them is drawn in one direction only;
    otherwise it could never be cut in one direction.
    """
    one, alone = rng.choice(names.ours), rng.choice(names.etcds)
    choices: list[Links] = [
        # A process from all of etcd; listed twice, because the design is mainly about this case.
        [(one, member) for member in names.etcds],
        [(one, member) for member in names.etcds],
        # From some of etcd only.
        [(one, member) for member in rng.sample(names.etcds, rng.choice((1, 2)))],
        # One member of etcd from the others.
        [(alone, other) for other in names.etcds if other != alone],
        # One member of etcd from every process of credmesh.
        [(part, alone) for part in names.ours],
        # Callers from a process, and nodes from the auth service.
        [(CLIENTS, one)],
        [(rng.choice(names.nodes), auth) for auth in names.auths],
    ]
    return sorted(set(rng.choice(choices)))


def described(links: Links) -> str:
    """The links as text, for descriptions."""
    return ", ".join(f"{source}-{destination}" for source, destination in links)
