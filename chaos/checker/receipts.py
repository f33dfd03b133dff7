"""Receipts: they list every node, they are complete only if they say so rightly, and they come in time. A part of I1.

etcd's order determines the nodes that a receipt must list: those that were registered before its revision, and still
were at a revision that was requested after the receipt had arrived.
"""

from __future__ import annotations

from typing import Final

from chaos.checker.facts import Facts
from chaos.checker.verdict import Verdict
from chaos.operation_log import Record

__all__ = ["check"]

_SLACK_SECONDS: Final = 2.0
"""Seconds by which a receipt can come later than its bound on a busy machine."""


def check(facts: Facts, verdict: Verdict) -> None:
    """Checks what the module describes."""
    for asked in (*facts.by_op["revoke"], *facts.by_op["revoke-key"]):
        if asked["answer"] == "ok" and asked.get("receipt"):
            _check_receipt(facts, asked, asked["receipt"], verdict)
    for calm in facts.by_op["calm"]:
        _check_times(facts, calm, verdict)


def _check_receipt(facts: Facts, asked: Record, receipt: Record, verdict: Verdict) -> None:
    left = set(receipt.get("left", ()))
    if receipt["complete"] and set(receipt["lagging"]) - left:
        verdict.violate("a receipt is called complete although it names a registered node as lagging", asked)
    incarnation = facts.incarnation(asked["t"], asked["u"])
    if incarnation is None:
        verdict.leave_open("etcd was restored while a receipt was waited for")
        return
    listed = {*receipt["applied"], *receipt["lagging"]}
    for node in facts.registered_throughout(incarnation, asked["revision"], asked["u"]):
        verdict.count("nodes to be listed")
        if node in left:
            verdict.violate(f"a receipt says that {node} has left, although it was registered all the time", asked)
        elif node in listed:
            continue
        elif receipt["complete"]:
            verdict.violate(f"a receipt is called complete although it lacks {node}, which was registered", asked)
        else:
            # By calling itself incomplete, the receipt says that its list can lack nodes.
            verdict.leave_open("a receipt that is not complete lacks a node")


def _check_times(facts: Facts, calm: Record, verdict: Verdict) -> None:
    """In a calm, a receipt comes within its bound. A call that never ended is too late as well."""
    bound = facts.meta["freshness"] + _SLACK_SECONDS
    for asked in (*facts.by_op["revoke"], *facts.by_op["revoke-key"]):
        if not asked.get("wait") or asked["t"] < calm["t"] or asked["t"] + bound > calm.get("quiet", calm["u"]):
            continue
        verdict.count("receipts in time")
        if asked["u"] - asked["t"] > bound:
            verdict.violate(
                f"in a calm, a receipt from {asked['at']} took {asked['u'] - asked['t']:.1f} s", calm, asked
            )
