"""I1: after a receipt, no node accepts the revoked credential on a strict method. Ever.

Also what receipts say of single nodes: one that has applied a revocation refuses on every method, and its streams have
ended; the rest of what they say is for `receipts`. And the bound that holds without a receipt: once a freshness has
passed since the commit, no node accepts it on a strict method. A key that was removed by force is a revocation of what
it signed. What was revoked stays so, whatever is restored.
"""

from __future__ import annotations

from chaos.checker import receipts
from chaos.checker.deaths import Deaths
from chaos.checker.facts import TRAIL, Facts, Issue
from chaos.checker.verdict import Verdict
from chaos.history import Record

__all__ = ["check"]


def check(facts: Facts, deaths: Deaths) -> Verdict:
    """See the module."""
    verdict = Verdict()
    for scope in facts.revocations.values():
        verdict.count("revocations", len(scope))
        verdict.count("receipts", sum(one.receipt is not None for one in scope))
    for removals in facts.removed.values():
        verdict.count("keys removed by force", sum(one.record is not None for one in removals))
    for call in facts.by_op["call"]:
        issue = facts.issues.get(call["cred"])
        if issue is None:
            continue
        if call["answer"] == "ok":
            _check_acceptance(call, issue, deaths, verdict)
        elif call["method"] == "Strict" and call["t"] >= deaths.of(issue).strict:
            verdict.count("calls with the dead")
    for stream in facts.by_op["stream"]:
        issue = facts.issues.get(stream["cred"])
        if issue is not None and "node" in stream:
            verdict.count("streams")
            death = deaths.of(issue)
            trail = stream.get("trail", ())
            if stream.get("method") == "StrictStream" and len(trail) == TRAIL and trail[0][0] >= death.strict:
                verdict.violate(
                    f"{stream['at']} went on with a strict stream {trail[-1][0] - death.strict:.3f} s after the moment "
                    "from which no node may accept its credential",
                    stream,
                    issue.record,
                    death.cause,
                )
                continue
            told = death.at_node.get(stream["node"])
            if told is not None and stream["mono"] > told[0]:
                verdict.violate(
                    f"{stream['at']} went on with a stream {stream['mono'] - told[0]:.3f} s after a receipt said that "
                    "it had applied the revocation",
                    stream,
                    issue.record,
                    told[1].record,
                )
    receipts.check(facts, verdict)
    return verdict


def _check_acceptance(call: Record, issue: Issue, deaths: Deaths, verdict: Verdict) -> None:
    death = deaths.of(issue)
    if call["method"] == "Strict":
        verdict.count("strict acceptances")
        if call["t"] >= death.strict and death.cause is not None:
            verdict.violate(
                f"{call['at']} accepted a revoked credential on a strict method, {call['t'] - death.strict:.3f} s "
                "after the moment from which no node may",
                call,
                issue.record,
                death.cause,
            )
            return
    told = death.at_node.get(call["node"])
    if told is not None and call["t"] >= told[0]:
        verdict.violate(
            f"{call['at']} accepted a revoked credential {call['t'] - told[0]:.3f} s after a receipt said that it had "
            "applied the revocation",
            call,
            issue.record,
            told[1].record,
        )
