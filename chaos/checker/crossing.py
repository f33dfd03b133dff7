"""I3: no credential issued across a revocation survives it.

If a session is revoked, no refresh of it may succeed afterwards, nor give a credential of a later epoch. A credential
that was issued during the commit of a revocation, with an earlier epoch, is revoked like all others: a node that
accepts it breaks I1. The operation log cannot tell whether a login of that time was authenticated before the revocation
or after it.
"""

from __future__ import annotations

from collections import defaultdict

from chaos.checker.facts import Facts, Issue, Revocation
from chaos.checker.revocation_bounds import RevocationBounds, revokes
from chaos.checker.verdict import Verdict

__all__ = ["check"]


def check(facts: Facts, _bounds: RevocationBounds) -> Verdict:
    """Checks what the module describes."""
    verdict = Verdict()
    sessions: dict[str, list[Issue]] = defaultdict(list)
    for issue in facts.issues.values():
        if issue.session is not None:
            sessions[issue.session].append(issue)
    for issues in sessions.values():
        issues.sort(key=lambda one: one.asked)
        _check_session(facts, issues, verdict)
    return verdict


def _check_session(facts: Facts, issues: list[Issue], verdict: Verdict) -> None:
    first, later = issues[0], issues[1:]
    if first.record["op"] != "login":
        # The answer to its login was lost. The first refresh in the log takes its place.
        verdict.count("sessions whose login was lost")
    ends = [one for scope in first.scopes for one in facts.revocations.get(scope, ()) if revokes(one, first)]
    verdict.count("sessions revoked", bool(ends))
    for issue in later:
        verdict.count("refreshes")
        for end in ends:
            why = _survives(issue, first, end)
            if why:
                verdict.violate(
                    f"a session that was begun before the revocation of {end.scope} gave a credential {why}",
                    issue.record,
                    first.record,
                    end,
                )
                break


def _survives(issue: Issue, first: Issue, end: Revocation) -> str:
    if end.committed_by < issue.asked:
        return "after it"
    if (
        issue.epoch is not None
        and issue.incarnation == end.incarnation == first.incarnation
        and issue.epoch >= end.revision
    ):
        return "whose epoch is a later revision"
    return ""
