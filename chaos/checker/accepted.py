"""I1: after a receipt, no node ever accepts the revoked credential on a strict method.

Checked as well:

- what a receipt says about single nodes: a node that has applied a revocation refuses the credential on every method,
  and has ended its streams. `receipts` checks the rest of a receipt;
- the bound that holds without a receipt: once a freshness has passed since the commit, no node accepts the credential
  on a strict method.

Revoking a key is a revocation of what it signed. A revocation holds across every restore.
"""

from __future__ import annotations

from chaos.checker import receipts
from chaos.checker.facts import TRAIL_LENGTH, Facts, Issue
from chaos.checker.revocation_bounds import RevocationBounds
from chaos.checker.verdict import Verdict
from chaos.operation_log import Record

__all__ = ["check"]


def check(facts: Facts, bounds: RevocationBounds) -> Verdict:
    """Checks what the module describes."""
    verdict = Verdict()
    for scope in facts.revocations.values():
        verdict.count("revocations", len(scope))
        verdict.count("receipts", sum(one.receipt is not None for one in scope))
    for revocations in facts.key_revocations.values():
        verdict.count("keys revoked", sum(one.record is not None for one in revocations))
    for call in facts.by_op["call"]:
        issue = facts.issues.get(call["cred"])
        if issue is None:
            continue
        if call["answer"] == "ok":
            _check_acceptance(call, issue, bounds, verdict)
        elif call["method"] == "Strict" and call["t"] >= bounds.of(issue).strict:
            verdict.count("calls with revoked credentials")
    for stream in facts.by_op["stream"]:
        issue = facts.issues.get(stream["cred"])
        if issue is not None and "node" in stream:
            verdict.count("streams")
            bound = bounds.of(issue)
            trail = stream.get("trail", ())
            if stream.get("method") == "StrictStream" and len(trail) == TRAIL_LENGTH and trail[0][0] >= bound.strict:
                verdict.violate(
                    f"{stream['at']} went on with a strict stream {trail[-1][0] - bound.strict:.3f} s after the moment "
                    "from which every node must refuse its credential",
                    stream,
                    issue.record,
                    bound.cause,
                )
                continue
            applied = bound.at_node.get(stream["node"])
            if applied is not None and stream["mono"] > applied[0]:
                verdict.violate(
                    f"{stream['at']} went on with a stream {stream['mono'] - applied[0]:.3f} s after a receipt named "
                    "it as having applied the revocation",
                    stream,
                    issue.record,
                    applied[1].record,
                )
    receipts.check(facts, verdict)
    return verdict


def _check_acceptance(call: Record, issue: Issue, bounds: RevocationBounds, verdict: Verdict) -> None:
    bound = bounds.of(issue)
    if call["method"] == "Strict":
        verdict.count("strict acceptances")
        if call["t"] >= bound.strict and bound.cause is not None:
            verdict.violate(
                f"{call['at']} accepted a revoked credential on a strict method, {call['t'] - bound.strict:.3f} s "
                "after the moment from which every node must refuse it",
                call,
                issue.record,
                bound.cause,
            )
            return
    applied = bound.at_node.get(call["node"])
    if applied is not None and call["t"] >= applied[0]:
        verdict.violate(
            f"{call['at']} accepted a revoked credential {call['t'] - applied[0]:.3f} s after a receipt named it as "
            "having applied the revocation",
            call,
            issue.record,
            applied[1].record,
        )
