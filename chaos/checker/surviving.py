"""I5: what was acknowledged survives a crash of any replica and of a minority of etcd.

What is acknowledged: revocations, credentials and sessions, keys that sign, accounts. So: an acknowledged revocation
lies in etcd; a credential that nobody revoked is not refused as revoked or unknown; neither is a refresh token that
nobody used; and a password that was right stays so.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from chaos.checker.deaths import Deaths
from chaos.checker.facts import Facts
from chaos.checker.verdict import Verdict

__all__ = ["check"]

_LOST: Final = ("CREDENTIAL_REVOKED", "CREDENTIAL_INVALID")


def check(facts: Facts, deaths: Deaths) -> Verdict:
    """See the module."""
    verdict = Verdict()
    _check_revocations(facts, verdict)
    _check_rotations(facts, verdict)
    _check_credentials(facts, deaths, verdict)
    _check_sessions(facts, deaths, verdict)
    for login in facts.by_op["login"]:
        verdict.count("logins", login["answer"] == "ok")
        if login["answer"] == "refused" and login["reason"] == "CREDENTIAL_INVALID":
            verdict.violate(f"{login['at']} refused a right password or secret", login)
    return verdict


def _check_revocations(facts: Facts, verdict: Verdict) -> None:
    for revocation in (one for scope in facts.revocations.values() for one in scope if one.record is not None):
        verdict.count("revocations acknowledged")
        if revocation.seen:
            continue
        if revocation.life is None or facts.unseen_by_observer(revocation.answered):
            verdict.leave_open("the observer may have missed it")
        else:
            verdict.violate("a revocation was acknowledged, and is not in etcd", revocation.record)


def _check_rotations(facts: Facts, verdict: Verdict) -> None:
    for rotation in facts.by_op["rotate"]:
        if rotation["answer"] != "ok":
            continue
        verdict.count("rotations acknowledged")
        if rotation["kid"] in facts.signing:
            continue
        if facts.unseen_by_observer(rotation["u"]) or facts.revoked_keys(rotation["kid"], rotation["u"]):
            verdict.leave_open("the observer may have missed it")
        else:
            verdict.violate("a rotation was acknowledged, and its key never signed", rotation)


def _check_credentials(facts: Facts, deaths: Deaths, verdict: Verdict) -> None:
    for call in facts.by_op["call"]:
        issue = facts.issues.get(call["cred"])
        if issue is None or call["answer"] != "refused" or call["reason"] not in _LOST:
            continue
        if facts.crossed(issue, call["u"]) or deaths.may_have_ended(issue, call["u"]):
            continue
        if call["reason"] == "CREDENTIAL_INVALID" and issue.record["kind"] == "token":
            continue  # a matter of clocks, or of keys: I2
        verdict.violate(f"{call['at']} lost a credential that nobody revoked", call, issue.record)


def _check_sessions(facts: Facts, deaths: Deaths, verdict: Verdict) -> None:
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
            unsure.add(session)  # a reuse may have ended it; I4 judges that
        if refresh["answer"] != "refused" or refresh["reason"] not in _LOST or session in unsure:
            continue
        issue = by_token.get(refresh["used"])
        if issue is None or facts.crossed(issue, refresh["u"]) or deaths.may_have_ended(issue, refresh["u"]):
            continue
        verdict.violate(f"{refresh['at']} lost a session that nobody ended", refresh, issue.record)
