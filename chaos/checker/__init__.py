"""Decides by the history alone whether the promises of the design were kept.

It does not know which faults there were. What it knows besides questions and answers is what etcd went through, as an
observer saw it, and how each process's wall clock stood: expiry and grace windows are promises about those. Each
invariant has a room; `facts` and `deaths` make of the history what they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from chaos.checker import (
    accepted,
    crossing,
    forged,
    recovering,
    refreshing,
    rotating,
    surviving,
)
from chaos.checker.deaths import Deaths
from chaos.checker.facts import Facts
from chaos.checker.verdict import Verdict
from chaos.history import Record

__all__ = ["INVARIANTS", "Verdict", "check"]

_ROOMS: Final[dict[str, tuple[str, Callable[[Facts, Deaths], Verdict]]]] = {
    "I1": ("after a receipt, no node accepts what was revoked on a strict method", accepted.check),
    "I2": ("a rotation refuses no valid credential", rotating.check),
    "I3": ("no credential issued across a revocation survives it", crossing.check),
    "I4": ("a refresh token is good once; a retry within grace does no harm", refreshing.check),
    "I5": ("what was acknowledged survives", surviving.check),
    "I6": ("nothing forged, altered or expired is accepted, and nothing crashes a node", forged.check),
    "I7": ("with etcd away methods do as their rule says, and nodes catch up", recovering.check),
}

INVARIANTS: Final = {name: promise for name, (promise, _) in _ROOMS.items()}
"""What is decided, in short."""


def check(history: Sequence[Record]) -> dict[str, Verdict]:
    """The verdict on each invariant. The history must be in the order of asking, as `read_history` gives it."""
    facts = Facts(history)
    deaths = Deaths(facts)
    return {name: room(facts, deaths) for name, (_, room) in _ROOMS.items()}
