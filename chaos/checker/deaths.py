"""When a credential must be dead, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from chaos.checker.facts import Facts, Issue, Revoker

__all__ = ["Death", "Deaths", "kills"]

_LAG: Final = 20.0
"""Seconds by which the observer may be late: the member that it follows may be frozen."""


@dataclass(slots=True)
class Death:
    """From when on a credential must not be accepted.

    strict     on strict methods of any node: the moment, and the revocation that it follows from
    at_node    on every method of a node, by the node's id: the moment, and the receipt in which it is said
    """

    strict: float = math.inf
    cause: Revoker | None = None
    at_node: dict[str, tuple[float, Revoker]] = field(default_factory=dict)


class Deaths:
    """Finds out, once per credential, when it must be dead, and when it may be."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._freshness: float = facts.meta["freshness"]
        self._known: dict[str, Death] = {}

    def of(self, issue: Issue) -> Death:
        """When a credential must be dead."""
        name = issue.record["cred"]
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._find(issue)
        return known

    def may_have_ended(self, issue: Issue, until: float, *, but: str = "") -> bool:
        """Whether a revocation may have ended a credential by then. The observer may learn of one a while later.

        but: a scope whose revocations do not count unless somebody asked for them, answered or not
        """
        for scope in issue.scopes:
            for revocation in self._facts.revocations.get(scope, ()):
                if scope == but and revocation.record is None and not self._facts.asked_for(scope, until):
                    continue
                begun = revocation.known - _LAG if revocation.record is None else revocation.asked
                if begun <= until and may_kill(revocation, issue):
                    return True
        return False

    def _find(self, issue: Issue) -> Death:
        death = Death()
        for scope in issue.scopes:
            for revocation in self._facts.revocations.get(scope, ()):
                if kills(revocation, issue):
                    self._note(death, revocation)
        # Whatever it says of itself: whoever has the key writes that.
        for revocation in self._facts.removed.get(issue.kid or "", ()):
            self._note(death, revocation)
        return death

    def _note(self, death: Death, revocation: Revoker) -> None:
        strict = revocation.known + self._freshness
        receipt = revocation.receipt
        if receipt is not None:
            strict = min(strict, revocation.answered + receipt["strict_in"])
            for node in receipt["applied"]:
                if revocation.answered < death.at_node.get(node, (math.inf, revocation))[0]:
                    death.at_node[node] = (revocation.answered, revocation)
        if strict < death.strict:
            death.strict, death.cause = strict, revocation


def may_kill(revocation: Revoker, issue: Issue) -> bool:
    """Whether a revocation, of a scope that the credential belongs to, may be one of this credential."""
    if issue.epoch is None or issue.life is None or revocation.life is None:
        return revocation.known >= issue.asked
    return kills(revocation, issue)


def kills(revocation: Revoker, issue: Issue) -> bool:
    """Whether a revocation, of a scope that the credential belongs to, is one of this credential.

    It is if the client had the credential before the revocation was asked for, whatever either says of itself; and if
    both happened in the same life of etcd, and the revocation's revision is above the credential's epoch.
    """
    if issue.answered < revocation.asked < math.inf:
        return True
    if issue.epoch is None or issue.life is None or issue.life != revocation.life:
        return False
    return issue.epoch < revocation.revision
