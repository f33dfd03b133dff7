"""What comes before anything of ours is imported."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["set_up"]


def set_up() -> None:
    """Does what the environment asks for. Must run before authsvc and interceptors are imported."""
    dial = os.environ.get("CHAOS_CLOCK")
    if dial:
        from chaos import clock

        clock.follow(Path(dial))
    if os.environ.get("CHAOS_CHEAP_PASSWORDS"):
        # Thousands of logins are to be had in a minute; how argon2id is priced is not what is tested here.
        import argon2

        argon2.profiles.RFC_9106_LOW_MEMORY = argon2.profiles.CHEAPEST
    planted = os.environ.get("CHAOS_PLANT")
    if planted:
        from chaos import mutations as bugs

        bugs.plant(planted.split(","))
