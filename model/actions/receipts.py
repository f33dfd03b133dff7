"""Revoking with a receipt, on an auth replica.

Modelled on authsvc/revocation/receipts.py, authsvc/revocation/revoker.py and authsvc/coordination/acknowledgements.py.
"""

from __future__ import annotations

from model.actions import commit, fault, faulty, name
from model.state import ABSENT, RECEIPT, State
from model.world import Steps, World

__all__ = [
    "learn_of_commit",
    "promises_all",
    "reach_freshness_bound",
    "read_acks",
    "read_nodes",
    "request_revocation",
    "restore",
    "revoke",
]

_RECEIPT_BIT = 1 << 4
"""The bit in `Node.counted_by` of the replica that waits for a receipt; the leaders have the lower bits."""


def request_revocation(state: State, world: World) -> Steps:
    """An operator requests a revocation with `wait`. Broken protocols read the clock or list the nodes now."""
    if state.receipt.stage:
        return
    after = state._replace(receipt=state.receipt._replace(stage="about"))
    if not world.rules.nodes_after_raise:
        after = after._replace(
            nodes=tuple(
                node._replace(listed_by=node.listed_by | (_RECEIPT_BIT if node.record != ABSENT else 0))
                for node in after.nodes
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


def learn_of_commit(state: State, world: World) -> Steps:
    """The replica learns of its commit, and counts the time from this moment.

    Every proof that does not cover the revocation was sent before this moment.

    Code: authsvc/revocation/receipts.py Receipts.confirm.
    """
    if state.receipt.stage != "committed":
        return
    since = 0 if world.rules.bound_from_answer else state.receipt.ticks_since_commit
    yield (
        "the auth replica learns of the commit",
        state._replace(receipt=state.receipt._replace(stage="watching", ticks_since_commit=since)),
    )


def read_acks(state: State, world: World) -> Steps:
    """The replica reads the acknowledgements; it reads the nodes after them.

    Code: authsvc/coordination/acknowledgements.py AckTracker.read_acks_and_nodes.
    """
    if state.receipt.stage != "watching":
        return
    raised = state.etcd.barriers[RECEIPT]
    nodes = tuple(
        node._replace(
            counted_by=node.counted_by | _RECEIPT_BIT
            if _is_counted(node.acks[RECEIPT], raised, world)
            else node.counted_by & ~_RECEIPT_BIT
        )
        for node in state.nodes
    )
    text = ", ".join(name(index) for index, node in enumerate(nodes) if node.counted_by & _RECEIPT_BIT) or "none"
    yield (
        f"the auth replica reads the acknowledgements: {text}",
        state._replace(nodes=nodes, receipt=state.receipt._replace(stage="acks")),
    )


def _is_counted(ack: int, raised: int, world: World) -> bool:
    return ack >= raised if world.rules.acks_name_revisions else ack > 0


def read_nodes(state: State, world: World) -> Steps:
    """The replica reads the nodes; if all of them have acknowledged, the receipt is complete.

    Code: authsvc/coordination/acknowledgements.py AckTracker.read_acks_and_nodes;
    authsvc/revocation/receipts.py Receipts._wait_for_nodes.
    """
    if state.receipt.stage != "acks":
        return
    lagging = [
        name(index)
        for index, node in enumerate(state.nodes)
        if not node.counted_by & _RECEIPT_BIT
        and (node.record != ABSENT if world.rules.nodes_after_raise else bool(node.listed_by & _RECEIPT_BIT))
    ]
    if lagging:
        again = state._replace(receipt=state.receipt._replace(stage="watching"))
        yield f"the auth replica reads the nodes, and waits for {', '.join(lagging)}", again
    else:
        yield (
            "the auth replica makes a COMPLETE receipt: every node has acknowledged",
            _make_receipt(state, complete=True),
        )


def reach_freshness_bound(state: State, world: World) -> Steps:
    """The longest freshness has passed since the commit was known: every other node is too stale for a strict method.

    Without `bound_is_awaited`, the replica makes the receipt earlier.

    Code: authsvc/revocation/receipts.py Receipts._wait_for_nodes, strict_bound.
    """
    if state.receipt.stage != "watching":
        return
    # Ages are whole ticks: a proof sent in the tick of the commit is too old one tick after the bound, not at it.
    if state.receipt.ticks_since_commit > world.freshness or not world.rules.bound_is_awaited:
        yield "the auth replica makes a receipt: the freshness bound has passed", _make_receipt(state, complete=False)


def _make_receipt(state: State, *, complete: bool) -> State:
    """Returns the state with the receipt: which nodes have applied, and from when the bound holds for all others.

    No replica waits for a node any more, and only the first node, whose calls are followed, matters.
    """
    node = state.nodes[0]
    node = node._replace(
        in_receipt=bool(node.counted_by & _RECEIPT_BIT),
        counted_by=0,
        listed_by=0,
        pending_acks=(),
        acks=(0, 0),
        heard_revision=0,
    )
    return state._replace(nodes=(node,), receipt=state.receipt._replace(stage="made", complete=complete))


def promises_all(state: State, world: World) -> bool:
    """Whether the receipt promises that no node accepts the credential on a strict method from now on.

    This is the receipt's strict_from: the freshness bound has passed since the commit was known.
    """
    receipt, rules = state.receipt, world.rules
    if receipt.stage != "made":
        return False
    early = not rules.complete_excludes_unregistered if receipt.complete else not rules.bound_is_awaited
    return early or receipt.ticks_since_commit > world.freshness


@fault
def restore(state: State, world: World) -> Steps:
    """etcd is restored from a snapshot that is older than everything that the nodes have applied."""
    if not state.budget.faults or state.receipt.stage or not state.etcd.log:
        return
    etcd = state.etcd._replace(
        log=(), epoch=0, barriers=(0, 0), beacon=0, keys=world.first_keys, history=state.etcd.history + 1
    )
    nodes = tuple(node._replace(acks=(0, 0)) for node in state.nodes)
    yield "etcd is restored from an old snapshot", faulty(state)._replace(etcd=etcd, nodes=nodes)
