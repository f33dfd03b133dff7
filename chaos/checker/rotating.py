"""I2: a rotation refuses no valid credential.

Here a credential is valid if it was issued, neither it nor its key was revoked, and it has not expired by a clock that
is right. Two kinds of refusals are not the rotation's fault: those by a node that was not registered when the key
became ACTIVE, since no rotation waits for it; and those under a key that had to sign without all acknowledgements
because no key was ACTIVE, after one was revoked.
"""

from __future__ import annotations

from chaos.checker.facts import Facts, Issue
from chaos.checker.revocation_bounds import RevocationBounds
from chaos.checker.verdict import Verdict
from chaos.operation_log import Record

__all__ = ["check"]


def check(facts: Facts, bounds: RevocationBounds) -> Verdict:
    """Checks what the module describes."""
    verdict = Verdict()
    _check_barriers(facts, verdict)
    _check_terms(facts, verdict)
    for call in [*facts.by_op["call"], *facts.by_op["stream"]]:
        issue = facts.issues.get(call["cred"])
        if issue is None or not _valid(facts, bounds, issue, call["u"]):
            continue
        verdict.count("calls with valid credentials")
        if call["answer"] != "refused":
            continue
        if call["reason"] == "KEY_UNKNOWN":
            _check_key(facts, call, issue, verdict)
        elif call["reason"] in ("CREDENTIAL_INVALID", "CREDENTIAL_EXPIRED") and issue.record["kind"] == "token":
            if facts.clocks_were_right((call["at"], issue.record["at"]), issue.asked, call["u"]):
                verdict.violate(
                    f"{call['at']} refused a valid credential as {call['reason']}, and no clock was wrong",
                    call,
                    issue.record,
                )
            else:
                verdict.leave_open("a clock was wrong")
    return verdict


def _check_barriers(facts: Facts, verdict: Verdict) -> None:
    """No key signs before every registered node has acknowledged it, according to the observer."""
    for kid, began in facts.signing.items():
        verdict.count("rotations")
        if not began.had_predecessor:
            continue  # without an ACTIVE key no login was possible: one silent node must not block that
        if began.missing_acks and facts.gaps:
            verdict.leave_open("the observer may have missed an acknowledgement")
        elif began.missing_acks:
            nodes = ", ".join(began.missing_acks)
            verdict.violate(f"key {kid} began to sign, although {nodes} had not acknowledged it", began.record)


def _check_terms(facts: Facts, verdict: Verdict) -> None:
    """Only the leader changes keys: a deposed leader commits nothing, even if it believes to lead."""
    for written in facts.written_without_leader:
        verdict.violate(f"key {written['kid']} was changed while no replica led rotation", written)


def _valid(facts: Facts, bounds: RevocationBounds, issue: Issue, until: float) -> bool:
    """Whether a credential was certainly valid until a moment."""
    if until >= issue.asked + facts.meta["token_lifetime"] - 1.0:
        return False
    if facts.ended_by_restore(issue, until) or bounds.may_have_ended(issue, until):
        return False
    return not facts.key_revocation_requested(issue.kid, until)


def _check_key(facts: Facts, call: Record, issue: Issue, verdict: Verdict) -> None:
    began = facts.signing.get(issue.kid or "")
    if began is None or facts.gaps:
        verdict.leave_open("the observer did not see the key begin to sign")
        return
    if not facts.was_registered(call["at"], began.incarnation, began.revision):
        verdict.leave_open("the node was not registered when the key began to sign")
    elif not began.had_predecessor:
        verdict.leave_open("no key signed before this one")
    else:
        verdict.violate(
            f"{call['at']} did not know key {issue.kid}, although it was registered when the key began to sign",
            call,
            issue.record,
            began.record,
        )
