"""The bounds of revocations: from when a revoked credential must be refused, on strict methods and at single nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from chaos.checker.facts import Facts, Issue, Revocation

__all__ = ["RevocationBound", "RevocationBounds", "revokes"]

_OBSERVER_LAG_SECONDS: Final = 20.0
"""Seconds by which the observer can be late, because the member that it follows can be frozen."""


@dataclass(slots=True)
class RevocationBound:
    """The moments from which a credential must be refused (monotonic seconds).

    strict   on strict methods, at every node
    cause    the revocation that `strict` follows from
    at_node  on every method, by the node's id, with the revocation whose receipt names the node
    """

    strict: float = math.inf
    cause: Revocation | None = None
    at_node: dict[str, tuple[float, Revocation]] = field(default_factory=dict)


class RevocationBounds:
    """Computes the bounds of each credential, once."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._freshness: float = facts.meta["freshness"]
        self._known: dict[str, RevocationBound] = {}

    def of(self, issue: Issue) -> RevocationBound:
        """The bound of a credential; infinity if it was not revoked."""
        name = issue.record["cred"]
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._find(issue)
        return known

    def may_have_ended(self, issue: Issue, until: float, *, but: str = "") -> bool:
        """Whether a revocation can have ended a credential by a moment. The observer can learn of it some time later.

        but: a scope whose revocations count only if an operator requested them, answered or not
        """
        for scope in issue.scopes:
            for revocation in self._facts.revocations.get(scope, ()):
                if scope == but and revocation.record is None and not self._facts.revocation_requested(scope, until):
                    continue
                begun = (
                    revocation.committed_by - _OBSERVER_LAG_SECONDS if revocation.record is None else revocation.asked
                )
                if begun <= until and may_revoke(revocation, issue):
                    return True
        return False

    def _find(self, issue: Issue) -> RevocationBound:
        bound = RevocationBound()
        for scope in issue.scopes:
            for revocation in self._facts.revocations.get(scope, ()):
                if revokes(revocation, issue):
                    self._note(bound, revocation)
        # Regardless of its epoch: a holder of the leaked key can write any epoch.
        for revocation in self._facts.key_revocations.get(issue.kid or "", ()):
            self._note(bound, revocation)
        return bound

    def _note(self, bound: RevocationBound, revocation: Revocation) -> None:
        strict = revocation.committed_by + self._freshness
        receipt = revocation.receipt
        if receipt is not None:
            strict = min(strict, revocation.answered + receipt["strict_in"])
            for node in receipt["applied"]:
                if revocation.answered < bound.at_node.get(node, (math.inf, revocation))[0]:
                    bound.at_node[node] = (revocation.answered, revocation)
        if strict < bound.strict:
            bound.strict, bound.cause = strict, revocation


def may_revoke(revocation: Revocation, issue: Issue) -> bool:
    """Whether a revocation of a scope that the credential belongs to can concern the credential."""
    if issue.epoch is None or issue.incarnation is None or revocation.incarnation is None:
        return revocation.committed_by >= issue.asked
    return revokes(revocation, issue)


def revokes(revocation: Revocation, issue: Issue) -> bool:
    """Whether a revocation of a scope that the credential belongs to certainly concerns the credential.

    It does if the client had the credential before the revocation was requested, regardless of epochs; and if both
    belong to the same incarnation of etcd, and the revocation's revision is above the credential's epoch.
    """
    if issue.answered < revocation.asked < math.inf:
        return True
    if issue.epoch is None or issue.incarnation is None or issue.incarnation != revocation.incarnation:
        return False
    return issue.epoch < revocation.revision
