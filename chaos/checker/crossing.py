"""I3: no credential issued across a revocation survives it.

A refresh of a session that was begun before a revocation of it must not succeed after it, nor claim to be of a later
revision. What was being issued while a revocation was committed, and says that it is of an earlier revision, is as dead
as all others: that is I1, as is a node that accepts it. And whether a login of that time was authenticated before the
revocation or after it, no history of questions and answers tells.
"""

from __future__ import annotations

from collections import defaultdict

from chaos.checker.deaths import Deaths, kills
from chaos.checker.facts import Facts, Issue, Revoker
from chaos.checker.verdict import Verdict

__all__ = ["check"]


def check(facts: Facts, _deaths: Deaths) -> Verdict:
    """See the module."""
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
        # The answer to its login was lost on the way. The first refresh that is known is as good a beginning.
        verdict.count("sessions whose login was lost")
    ends = [one for scope in first.scopes for one in facts.revocations.get(scope, ()) if kills(one, first)]
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


def _survives(issue: Issue, first: Issue, end: Revoker) -> str:
    if end.known < issue.asked:
        return "after it"
    if issue.epoch is not None and issue.life == end.life == first.life and issue.epoch >= end.revision:
        return "that says it is of a later revision"
    return ""
