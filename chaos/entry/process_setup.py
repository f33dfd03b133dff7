"""The setup of a process of the test bed, before the product is imported."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["set_up"]


def set_up() -> None:
    """Applies the CHAOS_… variables (see `chaos.entry`). Must run before authsvc and interceptors are imported."""
    clock_file = os.environ.get("CHAOS_CLOCK")
    if clock_file:
        from chaos import clock

        clock.follow(Path(clock_file))
    if os.environ.get("CHAOS_CHEAP_PASSWORDS"):
        # The clients sign in thousands of times a minute; the cost of argon2id is not under test here.
        import argon2

        argon2.profiles.RFC_9106_LOW_MEMORY = argon2.profiles.CHEAPEST
    names = os.environ.get("CHAOS_PLANT")
    if names:
        from chaos.mutations import inject

        inject(names.split(","))
