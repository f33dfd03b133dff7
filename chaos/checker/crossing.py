"""I3: no credential issued across a revocation survives it.

- What a session gives after the session was revoked does not count: a refresh of a session that was begun before a
  revocation of it must not succeed after it, nor claim to be of a later revision.
- What was being issued while a revocation was committed is either of an earlier revision, and then as dead as all
  others, or was authenticated after the revocation.
"""

from __future__ import annotations

from collections import defaultdict

from chaos.checker.deaths import Deaths, kills
from chaos.checker.facts import Facts, Issue, Revocation
from chaos.checker.verdict import Verdict

__all__ = ["check"]


def check(facts: Facts, deaths: Deaths) -> Verdict:
    """See the module."""
    verdict = Verdict()
    sessions: dict[str, list[Issue]] = defaultdict(list)
    for issue in facts.issues.values():
        if issue.session is not None:
            sessions[issue.session].append(issue)
    for issues in sessions.values():
        issues.sort(key=lambda one: one.asked)
        _check_session(facts, issues, verdict)
    _check_survivors(facts, deaths, verdict)
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


def _survives(issue: Issue, first: Issue, end: Revocation) -> str:
    if end.known < issue.asked:
        return "after it"
    if issue.epoch is not None and issue.life == end.life == first.life and issue.epoch >= end.revision:
        return "that says it is of a later revision"
    return ""


def _check_survivors(facts: Facts, deaths: Deaths, verdict: Verdict) -> None:
    """What was issued while a revocation was under way, and is accepted when it must be dead."""
    for call in facts.by_op["call"]:
        issue = facts.issues.get(call["cred"])
        if issue is None or call["answer"] != "ok" or call["method"] != "Strict":
            continue
        death = deaths.of(issue)
        cause = death.cause
        if cause is None or call["t"] < death.strict:
            continue
        if issue.asked <= cause.known and issue.answered >= cause.asked:
            verdict.violate(f"{call['at']} accepted what was issued across a revocation", call, issue.record, cause)
