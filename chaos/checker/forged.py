"""I6: a forged, altered, expired, wrong-audience or wrong-algorithm credential is never accepted.

And nothing crashes a node.

Whether a credential has expired is for the clock of whoever decides: an answer says how that stood.
"""

from __future__ import annotations

from chaos.checker.deaths import Deaths
from chaos.checker.facts import TRAIL, Facts
from chaos.checker.verdict import Verdict

__all__ = ["check"]


def check(facts: Facts, _deaths: Deaths) -> Verdict:
    """See the module."""
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
        # It was decided after the call was asked, by the clock that the handler then stamped its answer with.
        decided_at = call["wall"] - (call["mono"] - call["t"])
        if decided_at >= expires_at + leeway:
            if facts.clock_moved(call["at"], call["t"], call["u"]):
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
    """A stream ends when its token expires. What a process says right when it wakes up does not count: see TRAIL."""
    for stream in facts.by_op["stream"]:
        issue = facts.issues.get(stream["cred"])
        expires_at = None if issue is None else issue.record.get("exp")
        if issue is None or expires_at is None:
            continue
        if stream["answer"] == "refused" and stream["reason"] == "CREDENTIAL_EXPIRED":
            verdict.count("streams that were over at expiry")
        trail = stream.get("trail", ())
        if len(trail) < TRAIL or trail[0][1] < expires_at + leeway:
            continue
        if facts.clock_moved(stream["at"], stream["t"], stream["u"]):
            verdict.leave_open("the node's clock was set meanwhile")
        else:
            verdict.violate(
                f"{stream['at']} went on with a stream {trail[-1][1] - expires_at:.1f} s after its token had expired",
                stream,
                issue.record,
            )
