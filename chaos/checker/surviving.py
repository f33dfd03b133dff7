"""I5: what was acknowledged survives a crash of any replica and of a minority of etcd.

Acknowledged are revocations, credentials and sessions, keys that sign, and accounts. So an acknowledged revocation is
in etcd; a credential that was not revoked is not refused as revoked or unknown; an unused refresh token is not refused,
either; and a right password stays right.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from chaos.checker.facts import Facts
from chaos.checker.revocation_bounds import RevocationBounds
from chaos.checker.verdict import Verdict

__all__ = ["check"]

_LOST: Final = ("CREDENTIAL_REVOKED", "CREDENTIAL_INVALID")


def check(facts: Facts, bounds: RevocationBounds) -> Verdict:
    """Checks what the module describes."""
    verdict = Verdict()
    _check_revocations(facts, verdict)
    _check_rotations(facts, verdict)
    _check_credentials(facts, bounds, verdict)
    _check_sessions(facts, bounds, verdict)
    for login in facts.by_op["login"]:
        verdict.count("logins", login["answer"] == "ok")
        if login["answer"] == "refused" and login["reason"] == "CREDENTIAL_INVALID":
            verdict.violate(f"{login['at']} refused a right password or secret", login)
    return verdict


def _check_revocations(facts: Facts, verdict: Verdict) -> None:
    for revocation in (one for scope in facts.revocations.values() for one in scope if one.record is not None):
        verdict.count("revocations acknowledged")
        if revocation.in_etcd:
            continue
        if revocation.incarnation is None or facts.may_be_unseen(revocation.answered):
            verdict.leave_open("the observer may have missed the revocation")
        else:
            verdict.violate("a revocation was acknowledged, but is not in etcd", revocation.record)


def _check_rotations(facts: Facts, verdict: Verdict) -> None:
    for rotation in facts.by_op["rotate"]:
        if rotation["answer"] != "ok":
            continue
        verdict.count("rotations acknowledged")
        if rotation["kid"] in facts.signing:
            continue
        if facts.may_be_unseen(rotation["u"]) or facts.key_revocation_requested(rotation["kid"], rotation["u"]):
            verdict.leave_open("the observer may have missed the key's activation")
        else:
            verdict.violate("a rotation was acknowledged, but its key never signed", rotation)


def _check_credentials(facts: Facts, bounds: RevocationBounds, verdict: Verdict) -> None:
    for call in facts.by_op["call"]:
        issue = facts.issues.get(call["cred"])
        if issue is None or call["answer"] != "refused" or call["reason"] not in _LOST:
            continue
        if facts.ended_by_restore(issue, call["u"]) or bounds.may_have_ended(issue, call["u"]):
            continue
        if call["reason"] == "CREDENTIAL_INVALID" and issue.record["kind"] == "token":
            continue  # caused by clocks or keys: I2 covers it
        verdict.violate(f"{call['at']} refused a credential that was not revoked", call, issue.record)


def _check_sessions(facts: Facts, bounds: RevocationBounds, verdict: Verdict) -> None:
    used: dict[str, int] = defaultdict(int)
    unsure: set[str] = set()
    by_token = {issue.record["refresh"]: issue for issue in facts.issues.values() if issue.record["refresh"]}
    for refresh in facts.by_op["refresh"]:
        used[refresh["used"]] += 1
    for refresh in facts.by_op["refresh"]:
        session = refresh["session"]
        if refresh["answer"] == "ok":
            verdict.count("refreshes")
        elif used[refresh["used"]] > 1 or refresh["answer"] == "none":
            unsure.add(session)  # a reuse may have ended it: I4 covers it
        if refresh["answer"] != "refused" or refresh["reason"] not in _LOST or session in unsure:
            continue
        issue = by_token.get(refresh["used"])
        if issue is None or facts.ended_by_restore(issue, refresh["u"]) or bounds.may_have_ended(issue, refresh["u"]):
            continue
        verdict.violate(f"{refresh['at']} refused to refresh a session that had not ended", refresh, issue.record)
