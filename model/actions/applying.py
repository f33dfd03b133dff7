"""A node's trust bundle: applying commits from the watch, acknowledging barriers, and fetching a missing key."""

from __future__ import annotations

from model.actions import fault, faulty, name, with_node
from model.state import CURRENT, READY, Change, Node, Proof, State, holds, revision_of
from model.world import Steps, World

__all__ = [
    "acknowledge",
    "acknowledge_before_applying",
    "add_fetched_key",
    "apply",
    "count_pending_proof",
    "fail_to_acknowledge",
    "fetch_key",
]


def apply(state: State, world: World) -> Steps:
    """The watch brings the next commit.

    In a world with small steps, the values that other threads read change one after the other: the epochs, the
    generation, the proof. The acknowledgement comes last.

    Code: interceptors/node/mesh_node.py MeshNode._on_events; interceptors/trust/bundle.py TrustBundle.apply,
    TrustBundle._advance.
    """
    for index, node in enumerate(state.nodes):
        if node.phase != READY or node.history != state.etcd.history:
            continue
        if node.apply_step:
            changes, revision = state.etcd.log[node.revision - (node.apply_step == 2)], node.revision
        elif node.revision < revision_of(state.etcd):
            changes, revision = state.etcd.log[node.revision], node.revision + 1
        else:
            continue
        if world.small_steps:
            text, after = _apply_small_step(node, changes, world)
            yield f"node {name(index)} {text}", with_node(state, index, after)
            continue
        after = _with_epochs_and_keys(node, changes, revision, world)._replace(revision=revision)
        yield (
            f"node {name(index)} applies revision {revision} ({_description(changes)})",
            with_node(state, index, _with_pending_acks(count_pending_proof(after), changes, revision, world)),
        )


def _apply_small_step(node: Node, changes: tuple[Change, ...], world: World) -> tuple[str, Node]:
    revision = node.revision + (node.apply_step < 2)
    if node.apply_step == 0:
        if world.rules.epochs_before_generation:
            return f"applies the epochs of revision {revision}", _with_epochs_and_keys(
                node, changes, revision, world
            )._replace(apply_step=1)
        return f"changes its generation for revision {revision}", node._replace(
            generation=node.generation + 1, apply_step=1
        )
    if node.apply_step == 1:
        if world.rules.epochs_before_generation:
            return f"sets its revision to {revision} and changes its generation", _with_revision_and_generation(
                node, changes, revision
            )._replace(apply_step=2)
        after = _with_epochs_and_keys(node, changes, revision, world)._replace(revision=revision, apply_step=2)
        return f"applies the epochs of revision {revision}", after
    after = _with_pending_acks(count_pending_proof(node), changes, node.revision, world)._replace(apply_step=0)
    return "counts the proof that waited for this revision", after


def _with_epochs_and_keys(node: Node, changes: tuple[Change, ...], revision: int, world: World) -> Node:
    """TrustBundle._apply_epoch and _apply_key."""
    epoch, keys = node.epoch, node.keys
    for kind, value in changes:
        if kind == "epoch" and not node.ignores_epochs:
            epoch = revision
        elif kind == "key":
            keys |= 1 << value
        elif kind == "gone":
            keys &= ~(1 << value)
    return node._replace(epoch=epoch, keys=keys)


def _with_revision_and_generation(node: Node, changes: tuple[Change, ...], revision: int) -> Node:
    """The first half of TrustBundle._advance."""
    matters = any(kind != "barrier" for kind, _ in changes)
    return node._replace(revision=revision, generation=node.generation + matters)


def count_pending_proof(node: Node) -> Node:
    """The second half of TrustBundle._advance: a proof that waited for this revision counts now."""
    unproven = node.pending_proof
    if unproven.stage and node.revision >= unproven.beacon:
        return node._replace(proof_age=unproven.elapsed, pending_proof=Proof())
    return node


def _with_pending_acks(node: Node, changes: tuple[Change, ...], revision: int, world: World) -> Node:
    """MeshNode._acknowledge, and Heartbeat.acknowledge: the heartbeat will commit the acknowledgement."""
    if not world.rules.ack_after_apply:
        return node
    queue = node.pending_acks + tuple((value, revision) for kind, value in changes if kind == "barrier")
    return node._replace(pending_acks=queue, heard_revision=revision)


def _description(changes: tuple[Change, ...]) -> str:
    words = {"epoch": "the revocation", "key": "key {}", "gone": "key {} is removed", "barrier": "a barrier"}
    return " and ".join(words[kind].format(value) for kind, value in changes) or "nothing for nodes"


def acknowledge_before_applying(state: State, world: World) -> Steps:
    """Only in a broken protocol: a barrier is acknowledged when the watch brings it, before its revision is applied."""
    if world.rules.ack_after_apply:
        return
    for index, node in enumerate(state.nodes):
        if node.phase == READY and node.heard_revision < revision_of(state.etcd):
            heard = node.heard_revision + 1
            raised = tuple((value, heard) for kind, value in state.etcd.log[node.heard_revision] if kind == "barrier")
            after = node._replace(heard_revision=heard, pending_acks=node.pending_acks + raised)
            yield f"node {name(index)} receives revision {heard}", with_node(state, index, after)


def acknowledge(state: State, world: World) -> Steps:
    """A node commits an acknowledgement, if its record and the barrier are unchanged.

    Code: interceptors/node/heartbeat.py Heartbeat._acknowledge.
    """
    if state.receipt.stage == "made":
        return  # the receipt is made: no replica waits for acknowledgements
    for index, node in enumerate(state.nodes):
        if not node.pending_acks or node.proof.stage or node.phase != READY:
            continue
        (barrier, revision), *rest = node.pending_acks
        after = node._replace(pending_acks=tuple(rest))
        if node.record != CURRENT:
            yield f"node {name(index)} cannot acknowledge: its record is gone", with_node(state, index, after)
            continue
        if revision != state.etcd.barriers[barrier] and world.rules.acks_compare_barrier:
            yield f"node {name(index)} acknowledges nothing: the barrier has changed", with_node(state, index, after)
            continue
        acks = (revision, node.acks[1]) if barrier == 0 else (node.acks[0], revision)
        yield (
            f"node {name(index)} acknowledges revision {revision}, having applied {node.revision}",
            with_node(state, index, after._replace(acks=acks)),
        )


@fault
def fail_to_acknowledge(state: State, world: World) -> Steps:
    """etcd does not answer; the acknowledgement moves to the end of the queue.

    Code: interceptors/node/heartbeat.py Heartbeat._beat.
    """
    if not state.budget.faults:
        return
    for index, node in enumerate(state.nodes):
        if node.pending_acks and not node.proof.stage:
            queue = (*node.pending_acks[1:], node.pending_acks[0])
            yield (
                f"etcd does not answer when node {name(index)} acknowledges revision {node.pending_acks[0][1]}",
                with_node(faulty(state), index, node._replace(pending_acks=queue)),
            )


def fetch_key(state: State, world: World) -> Steps:
    """A node reads a key that it does not know from etcd.

    Code: interceptors/verification/verifier.py NeedKey; interceptors/node/mesh_node.py MeshNode._fetch_key.
    """
    etcd = state.etcd
    for index, node in enumerate(state.nodes):
        if node.phase != READY or node.fetched_key != (0, 0):
            continue
        for kid in range(1, world.keys + 1):
            if holds(etcd.keys, kid) and not holds(node.keys, kid):
                fetch = (kid, revision_of(etcd))
                yield (
                    f"node {name(index)} reads key {kid} from etcd, at revision {fetch[1]}",
                    with_node(state, index, node._replace(fetched_key=fetch)),
                )


def add_fetched_key(state: State, world: World) -> Steps:
    """The node adds the key, unless its watch is past the revision of the read.

    Code: interceptors/trust/bundle.py TrustBundle.add_key.
    """
    for index, node in enumerate(state.nodes):
        kid, revision = node.fetched_key
        if not kid:
            continue
        wanted = revision > node.revision or not world.rules.watch_overrides_fetch
        after = node._replace(fetched_key=(0, 0), keys=node.keys | (1 << kid if wanted else 0))
        yield f"node {name(index)} {'adds' if wanted else 'drops'} key {kid}", with_node(state, index, after)
