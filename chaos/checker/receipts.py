"""Receipts: they list every node, call complete only what is, and come in time. A part of I1.

Which nodes a receipt must list follows from etcd's own order: those that were registered before its revision, and still
were at a revision that was asked for after the receipt was there.
"""

from __future__ import annotations

from typing import Final

from chaos.checker.facts import Facts
from chaos.checker.verdict import Verdict
from chaos.history import Record

__all__ = ["check"]

_SLACK: Final = 2.0
"""Seconds by which a receipt may come later than its bound, on a machine that is busy."""


def check(facts: Facts, verdict: Verdict) -> None:
    """See the module."""
    for asked in (*facts.by_op["revoke"], *facts.by_op["revoke-key"]):
        if asked["answer"] == "ok" and asked.get("receipt"):
            _check_receipt(facts, asked, asked["receipt"], verdict)
    for calm in facts.by_op["calm"]:
        _check_times(facts, calm, verdict)


def _check_receipt(facts: Facts, asked: Record, receipt: Record, verdict: Verdict) -> None:
    left = set(receipt.get("left", ()))
    if receipt["complete"] and set(receipt["lagging"]) - left:
        verdict.violate("a receipt says that it is complete, and that a registered node lags", asked)
    life = facts.life(asked["t"], asked["u"])
    if life is None:
        verdict.leave_open("etcd was restored while a receipt was waited for")
        return
    listed = {*receipt["applied"], *receipt["lagging"]}
    for node in facts.members_between(life, asked["revision"], asked["u"]):
        verdict.count("nodes to be listed")
        if node in left:
            verdict.violate(f"a receipt says that {node} has left, and it was registered all the time", asked)
        elif node in listed:
            continue
        elif receipt["complete"]:
            verdict.violate(f"a receipt says that it is complete, and lacks {node}, which was registered", asked)
        else:
            # It says itself that it is not sure of its list.
            verdict.leave_open("a receipt that is not complete lacks a node")


def _check_times(facts: Facts, calm: Record, verdict: Verdict) -> None:
    """In a calm nothing holds a receipt up but its bound. A hang is as much too late as an answer would be."""
    bound = facts.meta["freshness"] + _SLACK
    for asked in (*facts.by_op["revoke"], *facts.by_op["revoke-key"]):
        if not asked.get("wait") or asked["t"] < calm["t"] or asked["t"] + bound > calm.get("quiet", calm["u"]):
            continue
        verdict.count("receipts in time")
        if asked["u"] - asked["t"] > bound:
            verdict.violate(
                f"in a calm, {asked['at']} let a receipt be waited for {asked['u'] - asked['t']:.1f} s", calm, asked
            )
