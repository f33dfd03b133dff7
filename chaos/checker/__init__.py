"""Decides by the operation log alone whether the promises of the design were kept.

Besides calls and answers, the checker knows what an observer saw in etcd, when etcd was restored, and how each
process's wall clock was set, because expiry and grace windows are promises about wall clocks. It knows of no other
faults. There is one module for each invariant; `facts` and `revocation_bounds` extract from the log what they share.
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
from chaos.checker.facts import Facts
from chaos.checker.revocation_bounds import RevocationBounds
from chaos.checker.verdict import Verdict
from chaos.operation_log import Record

__all__ = ["INVARIANTS", "Verdict", "check"]

_CHECKS: Final[dict[str, tuple[str, Callable[[Facts, RevocationBounds], Verdict]]]] = {
    "I1": ("after a receipt, no node accepts what was revoked on a strict method", accepted.check),
    "I2": ("a rotation refuses no valid credential", rotating.check),
    "I3": ("no credential issued across a revocation survives it", crossing.check),
    "I4": ("a refresh token is valid once; a retry within the grace window does no harm", refreshing.check),
    "I5": ("what was acknowledged survives", surviving.check),
    "I6": ("nothing forged, altered or expired is accepted, and nothing crashes a node", forged.check),
    "I7": ("without etcd, methods follow their rule; when it returns, nodes catch up", recovering.check),
}

_REST_ON_COMMITS: Final = ("I3", "I4", "I5")
"""The promises that cannot be decided if etcd has lost a commit or used a revision twice. All others always count."""

_DISAGREED: Final = "etcd's members disagreed, so etcd itself had lost commits or used revisions twice"

INVARIANTS: Final = {name: promise for name, (promise, _) in _CHECKS.items()}
"""The promises in short, by invariant."""


def check(records: Sequence[Record]) -> dict[str, Verdict]:
    """Returns the verdict on each invariant. `records` are ordered as `read_operation_log` returns them."""
    facts = Facts(records)
    bounds = RevocationBounds(facts)
    verdicts = {name: check_invariant(facts, bounds) for name, (_, check_invariant) in _CHECKS.items()}
    for since, until in facts.disagreements:
        for name in _REST_ON_COMMITS:
            verdicts[name].exempt(since, until, _DISAGREED)
    return verdicts
