"""Drawing a world's shape from a seed: some bugs show only if freshness is longer than the lease, or the reverse."""

from __future__ import annotations

import random
from typing import Final

from chaos.system.world import Shape

__all__ = ["draw_shape"]

_BOUNDS: Final = ((2.5, 4), (2.5, 3), (6.0, 3))
"""Freshness and lease of a node, in seconds. If the lease is shorter, a node that is cut off loses its registration and
still serves strict methods: no receipt waits for it, and only its freshness bounds what it accepts."""


def draw_shape(seed: int, *, pace: float = 1.0) -> Shape:
    """Draws the shape for a seed. It has its own generator, so the plan of a seed does not depend on it."""
    rng = random.Random(f"shape/{seed}")  # noqa: S311 - to be repeated
    freshness, lease = rng.choice(_BOUNDS)
    return Shape(pace=pace, freshness=freshness, node_lease=lease)
