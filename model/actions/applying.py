"""A node's knowledge: applying what the watch brings, acknowledging it, and asking for a key that it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.actions import Steps, fault, faulty, name, with_node
from model.state import MINE, READY, Change, Node, Proof, State, holds, revision_of

if TYPE_CHECKING:
    from model.worlds import World

__all__ = [
    "acknowledge",
    "acknowledging_fails",
    "add_fetched_key",
    "apply",
    "fetch_key",
    "hear_of_barrier",
    "take_in_proof",
]


def apply(state: State, world: World) -> Steps:
    """The watch brings the next commit.

    In a world with small steps what other threads see changes one after the other: the epochs, the generation, the
    proof; acknowledging comes last.

    Code: interceptors/node/mesh_node.py MeshNode._on_events; interceptors/trust/bundle.py TrustBundle.apply,
    TrustBundle._advance.
    """
    for index, node in enumerate(state.nodes):
        if node.phase != READY or node.history != state.etcd.history:
            continue
        if node.halfway:
            changes, revision = state.etcd.log[node.revision - (node.halfway == 2)], node.revision
        elif node.revision < revision_of(state.etcd):
            changes, revision = state.etcd.log[node.revision], node.revision + 1
        else:
            continue
        if world.small_steps:
            text, after = _apply_in_part(node, changes, world)
            yield f"node {name(index)} {text}", with_node(state, index, after)
            continue
        after = _changed(node, changes, revision, world)._replace(revision=revision)
        yield (
            f"node {name(index)} applies revision {revision} ({_told(changes)})",
            with_node(state, index, _queued(take_in_proof(after), changes, revision, world)),
        )


def _apply_in_part(node: Node, changes: tuple[Change, ...], world: World) -> tuple[str, Node]:
    revision = node.revision + (node.halfway < 2)
    if node.halfway == 0:
        if world.rules.epochs_before_generation:
            return f"has the epochs of revision {revision} in", _changed(node, changes, revision, world)._replace(
                halfway=1
            )
        return f"moves its generation for revision {revision}", node._replace(generation=node.generation + 1, halfway=1)
    if node.halfway == 1:
        if world.rules.epochs_before_generation:
            return f"moves revision and generation on to {revision}", _moved(node, changes, revision)._replace(
                halfway=2
            )
        after = _changed(node, changes, revision, world)._replace(revision=revision, halfway=2)
        return f"has the epochs of revision {revision} in", after
    after = _queued(take_in_proof(node), changes, node.revision, world)._replace(halfway=0)
    return "takes in the proof that waited for it", after


def _changed(node: Node, changes: tuple[Change, ...], revision: int, world: World) -> Node:
    """TrustBundle._apply_epoch and _apply_key."""
    epoch, keys = node.epoch, node.keys
    for kind, value in changes:
        if kind == "epoch" and not node.deaf:
            epoch = revision
        elif kind == "key":
            keys |= 1 << value
        elif kind == "gone":
            keys &= ~(1 << value)
    return node._replace(epoch=epoch, keys=keys)


def _moved(node: Node, changes: tuple[Change, ...], revision: int) -> Node:
    """TrustBundle._advance, its first half."""
    matters = any(kind != "barrier" for kind, _ in changes)
    return node._replace(revision=revision, generation=node.generation + matters)


def take_in_proof(node: Node) -> Node:
    """TrustBundle._advance, its second half: a proof that waited for this revision counts now."""
    unproven = node.unproven
    if unproven.stage and node.revision >= unproven.beacon:
        return node._replace(age=unproven.elapsed, unproven=Proof())
    return node


def _queued(node: Node, changes: tuple[Change, ...], revision: int, world: World) -> Node:
    """MeshNode._acknowledge, and Heartbeat.acknowledge: the pulse will commit it."""
    if not world.rules.ack_after_apply:
        return node
    queue = node.queue + tuple((value, revision) for kind, value in changes if kind == "barrier")
    return node._replace(queue=queue, told=revision)


def _told(changes: tuple[Change, ...]) -> str:
    words = {"epoch": "the revocation", "key": "key {}", "gone": "key {} is gone", "barrier": "a barrier"}
    return " and ".join(words[kind].format(value) for kind, value in changes) or "nothing for nodes"


def hear_of_barrier(state: State, world: World) -> Steps:
    """Only in a broken protocol: a barrier is acknowledged when the watch brings it, before it is applied."""
    if world.rules.ack_after_apply:
        return
    for index, node in enumerate(state.nodes):
        if node.phase == READY and node.told < revision_of(state.etcd):
            heard = node.told + 1
            raised = tuple((value, heard) for kind, value in state.etcd.log[node.told] if kind == "barrier")
            after = node._replace(told=heard, queue=node.queue + raised)
            yield f"node {name(index)} hears of revision {heard}", with_node(state, index, after)


def acknowledge(state: State, world: World) -> Steps:
    """A barrier is acknowledged in etcd, if the node's record and the barrier are as they were.

    Code: interceptors/node/heartbeat.py Heartbeat._acknowledge.
    """
    if state.receipt.stage == "made":
        return  # nobody waits any more
    for index, node in enumerate(state.nodes):
        if not node.queue or node.proof.stage or node.phase != READY:
            continue
        (barrier, revision), *rest = node.queue
        after = node._replace(queue=tuple(rest))
        if node.record != MINE:
            yield f"node {name(index)} cannot acknowledge: its record is gone", with_node(state, index, after)
            continue
        if revision != state.etcd.barriers[barrier] and world.rules.acks_compare_barrier:
            yield f"node {name(index)} acknowledges nothing: nobody waits any more", with_node(state, index, after)
            continue
        acks = (revision, node.acks[1]) if barrier == 0 else (node.acks[0], revision)
        yield (
            f"node {name(index)} acknowledges revision {revision}, having applied {node.revision}",
            with_node(state, index, after._replace(acks=acks)),
        )


@fault
def acknowledging_fails(state: State, world: World) -> Steps:
    """Etcd does not answer; the barrier goes to the end of the queue.

    Code: interceptors/node/heartbeat.py Heartbeat._beat.
    """
    if not state.left.faults:
        return
    for index, node in enumerate(state.nodes):
        if node.queue and not node.proof.stage:
            queue = (*node.queue[1:], node.queue[0])
            yield (
                f"etcd does not answer when node {name(index)} acknowledges revision {node.queue[0][1]}",
                with_node(faulty(state), index, node._replace(queue=queue)),
            )


def fetch_key(state: State, world: World) -> Steps:
    """A token's key is unknown, and is read from etcd.

    Code: interceptors/verification/verifier.py NeedKey; interceptors/node/mesh_node.py MeshNode._fetch_key.
    """
    etcd = state.etcd
    for index, node in enumerate(state.nodes):
        if node.phase != READY or node.fetch != (0, 0):
            continue
        for kid in range(1, world.keys + 1):
            if holds(etcd.keys, kid) and not holds(node.keys, kid):
                fetch = (kid, revision_of(etcd))
                yield (
                    f"node {name(index)} asks etcd for key {kid} and finds it, at revision {fetch[1]}",
                    with_node(state, index, node._replace(fetch=fetch)),
                )


def add_fetched_key(state: State, world: World) -> Steps:
    """The key that was read is added, unless the watch is past that read.

    Code: interceptors/trust/bundle.py TrustBundle.add_key.
    """
    for index, node in enumerate(state.nodes):
        kid, revision = node.fetch
        if not kid:
            continue
        wanted = revision > node.revision or not world.rules.fetch_minds_the_watch
        after = node._replace(fetch=(0, 0), keys=node.keys | (1 << kid if wanted else 0))
        yield f"node {name(index)} {'adds' if wanted else 'drops'} key {kid}", with_node(state, index, after)
