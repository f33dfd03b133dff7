"""Revoking with a receipt, on an auth replica (authsvc/revocation/receipts.py,
authsvc/coordination/acknowledgements.py, authsvc/revocation/revoker.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.actions import Steps, commit, fault, faulty, name
from model.state import ABSENT, RECEIPT, State

if TYPE_CHECKING:
    from model.worlds import World

__all__ = ["begin", "learn", "look_at_acks", "look_at_nodes", "promises_all", "reach_bound", "restore", "revoke"]

_BIT = 1 << 4
"""Who waits for a receipt, among those who note down which nodes they have heard from; below are the leaders."""


def begin(state: State, world: World) -> Steps:
    """A revocation with `wait` is asked for. Where the broken protocols take clock or list too early, it is here."""
    if state.receipt.stage:
        return
    after = state._replace(receipt=state.receipt._replace(stage="about"))
    if not world.rules.nodes_after_raise:
        after = after._replace(
            nodes=tuple(
                node._replace(listed=node.listed | (_BIT if node.record != ABSENT else 0)) for node in after.nodes
            )
        )
    yield "an operator asks for a revocation with a receipt", after


def revoke(state: State, world: World) -> Steps:
    """One commit: the epoch, the barrier, the beacon.

    Code: authsvc/revocation/revoker.py Revoker.revoke_all; authsvc/revocation/receipts.py Receipts._commit.
    """
    if state.receipt.stage != "about":
        return
    etcd = commit(state.etcd, ("epoch", 0), ("barrier", RECEIPT), beacon=world.rules.every_commit_moves_beacon)
    revision = len(etcd.log)
    etcd = etcd._replace(epoch=revision, barriers=(etcd.barriers[0], revision))
    after = state._replace(etcd=etcd, receipt=state.receipt._replace(stage="committed"))
    yield f"the revocation is committed: revision {revision}", after


def learn(state: State, world: World) -> Steps:
    """The replica learns of its commit, and counts the time from here on.

    Whatever was proven without the revocation was sent before this moment.

    Code: authsvc/revocation/receipts.py Receipts.confirm.
    """
    if state.receipt.stage != "committed":
        return
    since = 0 if world.rules.bound_from_answer else state.receipt.since
    yield (
        "the auth replica learns of the commit",
        state._replace(receipt=state.receipt._replace(stage="watching", since=since)),
    )


def look_at_acks(state: State, world: World) -> Steps:
    """It reads the acknowledgements, and after them the nodes.

    Code: authsvc/coordination/acknowledgements.py AckTracker.look.
    """
    if state.receipt.stage != "watching":
        return
    raised = state.etcd.barriers[RECEIPT]
    nodes = tuple(
        node._replace(heard=node.heard | _BIT if _counts(node.acks[RECEIPT], raised, world) else node.heard & ~_BIT)
        for node in state.nodes
    )
    text = ", ".join(name(index) for index, node in enumerate(nodes) if node.heard & _BIT) or "nobody"
    yield (
        f"the auth replica reads the acknowledgements: {text}",
        state._replace(nodes=nodes, receipt=state.receipt._replace(stage="acks")),
    )


def _counts(ack: int, raised: int, world: World) -> bool:
    return ack >= raised if world.rules.acks_name_revisions else ack > 0


def look_at_nodes(state: State, world: World) -> Steps:
    """It reads the nodes; if all of them have acknowledged, the receipt is complete.

    Code: authsvc/coordination/acknowledgements.py AckTracker.look; authsvc/revocation/receipts.py Receipts._wait.
    """
    if state.receipt.stage != "acks":
        return
    lagging = [
        name(index)
        for index, node in enumerate(state.nodes)
        if not node.heard & _BIT
        and (node.record != ABSENT if world.rules.nodes_after_raise else bool(node.listed & _BIT))
    ]
    if lagging:
        again = state._replace(receipt=state.receipt._replace(stage="watching"))
        yield f"the auth replica reads the nodes, and waits for {', '.join(lagging)}", again
    else:
        yield "the auth replica makes a COMPLETE receipt: every node has acknowledged", _made(state, complete=True)


def reach_bound(state: State, world: World) -> Steps:
    """The longest freshness has passed since the commit was known: every other node is too stale for a strict method.

    Without `whole_bound` it is not waited for, as an impatient operator would have it.

    Code: authsvc/revocation/receipts.py Receipts._wait, strict_after.
    """
    if state.receipt.stage != "watching":
        return
    # Ages are whole ticks: what was sent in the tick of the commit is too old one tick after the bound, not at it.
    if state.receipt.since > world.freshness or not world.rules.whole_bound:
        yield "the auth replica makes a receipt: the freshness bound has passed", _made(state, complete=False)


def _made(state: State, *, complete: bool) -> State:
    """The receipt as it promises: which nodes have applied, and from when on the bound holds for all others.

    From here on nobody waits for anybody, and only the node that is watched matters.
    """
    node = state.nodes[0]
    node = node._replace(applied=bool(node.heard & _BIT), heard=0, listed=0, queue=(), acks=(0, 0), told=0)
    return state._replace(nodes=(node,), receipt=state.receipt._replace(stage="made", complete=complete))


def promises_all(state: State, world: World) -> bool:
    """Whether the receipt promises that no node at all accepts the credential on a strict method from now on.

    That is the receipt's strict_from: the freshness bound has passed since the commit was known.
    """
    receipt, rules = state.receipt, world.rules
    if receipt.stage != "made":
        return False
    early = not rules.complete_is_not_all if receipt.complete else not rules.whole_bound
    return early or receipt.since > world.freshness


@fault
def restore(state: State, world: World) -> Steps:
    """etcd is restored from a snapshot that was taken before all that the nodes have applied."""
    if not state.left.faults or state.receipt.stage or not state.etcd.log:
        return
    etcd = state.etcd._replace(
        log=(), epoch=0, barriers=(0, 0), beacon=0, keys=world.first_keys, history=state.etcd.history + 1
    )
    nodes = tuple(node._replace(acks=(0, 0)) for node in state.nodes)
    yield "etcd is restored from an old snapshot", faulty(state)._replace(etcd=etcd, nodes=nodes)
