"""I6: a forged, altered, expired, wrong-audience or wrong-algorithm credential is never accepted; no input crashes a
node.

Whether a credential has expired is decided by the node's clock, which its answers contain.
"""

from __future__ import annotations

from chaos.checker.facts import TRAIL_LENGTH, Facts
from chaos.checker.revocation_bounds import RevocationBounds
from chaos.checker.verdict import Verdict

__all__ = ["check"]


def check(facts: Facts, _bounds: RevocationBounds) -> Verdict:
    """Checks what the module describes."""
    verdict = Verdict()
    for attempt in facts.by_op["forged"]:
        verdict.count("forgeries")
        if attempt["answer"] == "ok":
            verdict.violate(f"{attempt['at']} accepted a forgery ({attempt['kind']})", attempt)
    leeway: float = facts.meta["leeway"]
    for call in facts.by_op["call"]:
        issue = facts.issues.get(call["cred"])
        expires_at = None if issue is None else issue.record.get("exp")
        if issue is None or expires_at is None:
            continue
        if call["answer"] == "refused" and call["reason"] == "CREDENTIAL_EXPIRED":
            verdict.count("expired refused")
        if call["answer"] != "ok":
            continue
        verdict.count("acceptances")
        # An early bound of the node's clock at its decision: the clock in the answer, less the time since the call
        # began.
        decided_at = call["wall"] - (call["mono"] - call["t"])
        if decided_at >= expires_at + leeway:
            if facts.clock_may_have_been_set(call["at"], call["t"], call["u"]):
                verdict.leave_open("the node's clock was set meanwhile")
            else:
                verdict.violate(
                    f"{call['at']} accepted a credential {decided_at - expires_at:.1f} s after it had expired",
                    call,
                    issue.record,
                )
    _check_streams(facts, leeway, verdict)
    ours = {*facts.meta["auths"], *facts.meta["nodes"]}
    for end in facts.by_op["exit"]:
        if end["who"] not in ours:
            verdict.leave_open("a member of etcd ended by itself")
            continue
        verdict.violate(f"{end['who']} ended by itself with exit code {end['code']}", end)
    return verdict


def _check_streams(facts: Facts, leeway: float, verdict: Verdict) -> None:
    """A stream ends when its token expires. First messages after a SIGSTOP do not count: see TRAIL_LENGTH."""
    for stream in facts.by_op["stream"]:
        issue = facts.issues.get(stream["cred"])
        expires_at = None if issue is None else issue.record.get("exp")
        if issue is None or expires_at is None:
            continue
        if stream["answer"] == "refused" and stream["reason"] == "CREDENTIAL_EXPIRED":
            verdict.count("streams that ended at expiry")
        trail = stream.get("trail", ())
        if len(trail) < TRAIL_LENGTH or trail[0][1] < expires_at + leeway:
            continue
        if facts.clock_may_have_been_set(stream["at"], stream["t"], stream["u"]):
            verdict.leave_open("the node's clock was set meanwhile")
        else:
            verdict.violate(
                f"{stream['at']} went on with a stream {trail[-1][1] - expires_at:.1f} s after its token had expired",
                stream,
                issue.record,
            )
