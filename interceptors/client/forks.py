"""Renewals after a fork. A session's refresh token is good for one process; the parent keeps it."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

__all__ = ["Forkable", "tell_of_forks"]


class Forkable(Protocol):
    """Something with threads, locks or secrets that a forked child must not share."""

    def forked(self) -> None:
        """Called in the child, before anything else runs there."""
        ...


_living: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()


def tell_of_forks(forkable: Forkable) -> None:
    """Has `forkable.forked()` called in each forked child, as long as it lives."""
    _living.add(forkable)


def _in_child() -> None:
    for forkable in list(_living):
        forkable.forked()


os.register_at_fork(after_in_child=_in_child)
