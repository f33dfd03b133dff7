"""Notifies objects in a forked child. A refresh token works in one process only; the parent keeps it."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

__all__ = ["Forkable", "register_for_forks"]


class Forkable(Protocol):
    """An object with threads, locks or secrets that a forked child must not share with its parent."""

    def reset_after_fork(self) -> None:
        """Called in the child, before any other code runs there."""
        ...


_registered: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()


def register_for_forks(forkable: Forkable) -> None:
    """Has `forkable.reset_after_fork()` called in each forked child, as long as the object lives."""
    _registered.add(forkable)


def _reset_in_child() -> None:
    for forkable in list(_registered):
        forkable.reset_after_fork()


os.register_at_fork(after_in_child=_reset_in_child)
