"""I2: a rotation refuses no valid credential.

A credential is valid here if it was issued, nobody has revoked it or its key, and it has not expired by a clock that
is right. A node that was not registered when a key began to sign is not waited for: that is no rotation's fault.
Neither is a key that had to sign without everybody's word since no key signed at all, after one was removed by force.
"""

from __future__ import annotations

from chaos.checker.deaths import Deaths
from chaos.checker.facts import Facts, Issue
from chaos.checker.verdict import Verdict
from chaos.history import Record

__all__ = ["check"]


def check(facts: Facts, deaths: Deaths) -> Verdict:
    """See the module."""
    verdict = Verdict()
    _check_barriers(facts, verdict)
    _check_terms(facts, verdict)
    for call in [*facts.by_op["call"], *facts.by_op["stream"]]:
        issue = facts.issues.get(call["cred"])
        if issue is None or not _valid(facts, deaths, issue, call["u"]):
            continue
        verdict.count("calls with valid credentials")
        if call["answer"] != "refused":
            continue
        if call["reason"] == "KEY_UNKNOWN":
            _check_key(facts, call, issue, verdict)
        elif call["reason"] in ("CREDENTIAL_INVALID", "CREDENTIAL_EXPIRED") and issue.record["kind"] == "token":
            if facts.clocks_right((call["at"], issue.record["at"]), issue.asked, call["u"]):
                verdict.violate(
                    f"{call['at']} refused a valid credential as {call['reason']}, and no clock was wrong",
                    call,
                    issue.record,
                )
            else:
                verdict.leave_open("a clock was wrong")
    return verdict


def _check_barriers(facts: Facts, verdict: Verdict) -> None:
    """No key signs before every live node has acknowledged it: as etcd tells."""
    for kid, began in facts.signing.items():
        verdict.count("rotations")
        if not began.in_turn:
            continue  # nobody could sign in anywhere: one silent node must not hold that up
        if began.without and facts.gaps:
            verdict.leave_open("the observer may have missed an acknowledgement")
        elif began.without:
            nodes = ", ".join(began.without)
            verdict.violate(f"key {kid} began to sign, and {nodes} had not acknowledged it", began.record)


def _check_terms(facts: Facts, verdict: Verdict) -> None:
    """Only who leads writes keys: one that was deposed writes nothing, whatever it believes."""
    for written in facts.unled:
        verdict.violate(f"key {written['kid']} was written while nobody led rotation", written)


def _valid(facts: Facts, deaths: Deaths, issue: Issue, until: float) -> bool:
    """Whether a credential was valid all the time up to then."""
    if until >= issue.asked + facts.meta["token_lifetime"] - 1.0:
        return False
    if facts.crossed(issue, until) or deaths.may_have_ended(issue, until):
        return False
    return not facts.revoked_keys(issue.kid, until)


def _check_key(facts: Facts, call: Record, issue: Issue, verdict: Verdict) -> None:
    began = facts.signing.get(issue.kid or "")
    if began is None or facts.gaps:
        verdict.leave_open("the observer did not see the key begin to sign")
        return
    if not facts.member_at(call["at"], began.life, began.revision):
        verdict.leave_open("the node was not registered when the key began to sign")
    elif not began.in_turn:
        verdict.leave_open("no key signed before this one")
    else:
        verdict.violate(
            f"{call['at']} did not know key {issue.kid}, though it was registered when the key began to sign",
            call,
            issue.record,
            began.record,
        )
