"""I7: without etcd, methods follow their rule; when it returns, nodes catch up without a restart.

A plain method never refuses a call because the node is stale. In a calm, everything works on every node and replica:
strict calls, logins, refreshes, rotations, and receipts that every registered node has acknowledged. Calms in which
etcd's own members disagree do not count.
"""

from __future__ import annotations

from chaos.checker.facts import NO_CALM, Facts
from chaos.checker.revocation_bounds import RevocationBounds
from chaos.checker.verdict import Verdict
from chaos.operation_log import Record

__all__ = ["check"]


def check(facts: Facts, bounds: RevocationBounds) -> Verdict:
    """Checks what the module describes."""
    verdict = Verdict()
    _check_plain(facts, verdict)
    for _ in facts.by_op[NO_CALM]:
        verdict.leave_open("etcd's own members disagreed in a calm")
    for calm in facts.by_op["calm"]:
        verdict.count("calms")
        _check_calm(facts, bounds, calm, verdict)
    return verdict


def _check_plain(facts: Facts, verdict: Verdict) -> None:
    for call in facts.by_op["call"]:
        issue = facts.issues.get(call["cred"])
        if issue is None or call["method"] != "Plain" or issue.record["kind"] != "token":
            continue
        verdict.count("plain calls")
        if call["answer"] != "refused" or call["reason"] != "MESH_STALE":
            continue
        if facts.in_unsettled_history(call["t"], call["u"]):
            # A node can refuse every call until it knows which history it is in.
            verdict.leave_open("etcd was restored, and there was no calm since")
        else:
            verdict.violate(f"{call['at']} refused a plain call for being stale", call)
    for call in facts.by_op["call"]:
        if call["answer"] == "refused" and call["reason"] == "MESH_STALE":
            verdict.count("strict calls refused as stale")


def _check_calm(facts: Facts, bounds: RevocationBounds, calm: Record, verdict: Verdict) -> None:
    def within(op: str) -> list[Record]:
        return [one for one in facts.by_op[op] if calm["t"] <= one["t"] and one["u"] <= calm["u"]]

    def demand(what: str, asked: list[Record]) -> None:
        if not asked:
            verdict.leave_open(f"no attempt in a calm: {what}")
        elif any(one["answer"] == "ok" for one in asked):
            verdict.count("recoveries")
        elif len(asked) == 1:
            # On a busy machine, etcd can change its leader at any time, which fails a call.
            verdict.leave_open(f"only one attempt in a calm, which failed: {what}")
        else:
            verdict.violate(f"in a calm, {what} did not work", calm, *asked[-3:])

    def alive(call: Record) -> bool:
        issue = facts.issues.get(call["cred"])
        return (
            issue is not None
            and call["u"] < issue.asked + facts.meta["token_lifetime"] - 1.0
            and not facts.key_revocation_requested(issue.kid, call["u"])
            and not facts.ended_by_restore(issue, call["u"])
            and not bounds.may_have_ended(issue, call["u"])
        )

    for node in facts.meta["nodes"]:
        for method in ("Strict", "Plain"):
            calls = [one for one in within("call") if one["at"] == node and one["method"] == method and alive(one)]
            demand(f"{method.lower()} calls of {node}", calls)
    for replica in facts.meta["auths"]:
        demand(f"logins at {replica}", [one for one in within("login") if one["at"] == replica])
    demand("rotations", within("rotate"))
    receipts = [one for one in within("revoke") if one["wait"] and one.get("code") != "NOT_FOUND"]
    demand("revocations", receipts)
    answered = [one for one in receipts if one.get("receipt")]
    if answered and not any(one["receipt"]["complete"] for one in answered):
        verdict.violate("in a calm, no receipt was complete", calm, *answered[-3:])
