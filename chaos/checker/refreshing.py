"""I4: a refresh token used twice outside the grace window ends its session; a retry within it does not.

The grace window is a promise about the replicas' wall clocks: if one of them was wrong, the case is left undecided. One
rule holds regardless of clocks: two uses of one token lead to one chain of tokens, never to two.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Final

from chaos.checker.facts import Facts
from chaos.checker.revocation_bounds import RevocationBounds
from chaos.checker.verdict import Verdict
from chaos.operation_log import Record
from interceptors.scopes import session_scope

__all__ = ["check"]

_MARGIN_SECONDS: Final = 0.2
_ENDED: Final = ("CREDENTIAL_REVOKED", "CREDENTIAL_INVALID")


def check(facts: Facts, bounds: RevocationBounds) -> Verdict:
    """Checks what the module describes."""
    verdict = Verdict()
    uses: dict[str, list[Record]] = defaultdict(list)
    successors: dict[str, set[str]] = defaultdict(set)
    for refresh in facts.by_op["refresh"]:
        uses[refresh["used"]].append(refresh)
        if refresh["answer"] == "ok":
            successors[refresh["used"]].add(refresh["refresh"])
    for used in uses.values():
        verdict.count("refresh tokens used")
        if len(used) > 1:
            verdict.count("used more than once")
            _check_chain(used, successors, verdict)
            _check_grace(facts, bounds, used, verdict)
    _check_ended(facts, verdict)
    return verdict


def _check_chain(used: list[Record], successors: dict[str, set[str]], verdict: Verdict) -> None:
    """All answers lie on one chain: a retry gets the successor, or a later successor if that was exchanged, too."""
    given = {one["refresh"]: one for one in used if one["answer"] == "ok"}
    for first, second in itertools.pairwise(given):
        if not (_reaches(first, second, successors) or _reaches(second, first, successors)):
            verdict.violate("one refresh token was exchanged for two that are not on one chain", *given.values())
            return


def _reaches(start: str, goal: str, successors: dict[str, set[str]]) -> bool:
    seen, ahead = {start}, [start]
    while ahead:
        for name in successors.get(ahead.pop(), ()):
            if name == goal:
                return True
            if name not in seen:
                seen.add(name)
                ahead.append(name)
    return False


def _check_grace(facts: Facts, bounds: RevocationBounds, used: list[Record], verdict: Verdict) -> None:
    grace: float = facts.meta["refresh_grace"]
    replicas = tuple({one["at"] for one in used})
    first_asked = min(one["t"] for one in used)
    first_done = min((one["u"] for one in used if one["answer"] == "ok"), default=math.inf)
    for one in used:
        late = one["answer"] == "ok" and one["t"] > first_done + grace + _MARGIN_SECONDS
        # A use whose answer was lost can have been the first, but not before it was requested.
        early = (
            one["answer"] == "refused" and one["reason"] in _ENDED and one["u"] < first_asked + grace - _MARGIN_SECONDS
        )
        if one["answer"] == "refused" and one["t"] > first_done + grace + _MARGIN_SECONDS:
            verdict.count("reuses refused")
        if not (late or early):
            continue
        if not facts.clocks_were_right(replicas, first_asked, one["u"]):
            verdict.leave_open("a replica's clock was wrong")
        elif late:
            verdict.violate(
                f"a refresh token was accepted again {one['t'] - first_done:.3f} s after its first use", *used
            )
        elif not _ended_otherwise(facts, bounds, one, used):
            verdict.violate("a retry within the grace window was refused", *used)


def _ended_otherwise(facts: Facts, bounds: RevocationBounds, refused: Record, used: list[Record]) -> bool:
    """Whether the session can have ended for another reason: a revocation, or the reuse of an older token."""
    session = refused["session"]
    issues = [one for one in facts.issues.values() if one.session == session and one.answered <= refused["u"]]
    if not issues:
        return True
    newest = max(issues, key=lambda one: one.asked)
    if facts.ended_by_restore(newest, refused["u"]):
        return True
    # A revocation of the session that was not requested is the replica's answer to a reuse, which is judged here.
    itself = session_scope(session)
    if bounds.may_have_ended(newest, refused["u"], but=itself):
        return True
    tokens = {one["used"] for one in used}
    others = (one for one in facts.by_op["refresh"] if one["session"] == session and one["used"] not in tokens)
    return any(one["t"] <= refused["u"] and one["answer"] != "ok" for one in others)


def _check_ended(facts: Facts, verdict: Verdict) -> None:
    """After a reuse was refused, the session gives no more credentials."""
    reuse_refused: dict[str, Record] = {}
    seen: set[str] = set()
    for one in facts.by_op["refresh"]:
        session = one["session"]
        if one["answer"] == "ok" and session in reuse_refused and one["t"] > reuse_refused[session]["u"]:
            verdict.violate("a session went on after its refresh token was reused", one, reuse_refused[session])
        if one["answer"] == "refused" and one["reason"] == "CREDENTIAL_REVOKED" and one["used"] in seen:
            reuse_refused.setdefault(session, one)
        seen.add(one["used"])
