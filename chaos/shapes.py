"""Worlds that are drawn from a seed, too: what a mesh gets wrong may hang on which of its bounds is the longer one."""

from __future__ import annotations

import random
from typing import Final

from chaos.system.world import Shape

__all__ = ["draw_shape"]

_BOUNDS: Final = ((2.5, 4), (2.5, 3), (6.0, 3))
"""Freshness and lease of a node, in seconds. As long as its lease is the shorter one, a node that is cut off is
registered no more, and still serves strict methods: nobody waits for it, and only its freshness fences it."""


def draw_shape(seed: int, *, pace: float = 1.0) -> Shape:
    """The world for a seed. Dice of its own: whatever is drawn here, the plan of a seed stays what it was."""
    rng = random.Random(f"shape/{seed}")  # noqa: S311 - to be repeated
    freshness, lease = rng.choice(_BOUNDS)
    return Shape(pace=pace, freshness=freshness, node_lease=lease)
