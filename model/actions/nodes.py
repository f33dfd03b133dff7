"""A node's life: registering, reading the mesh, being given up, dying."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.actions import Steps, fault, faulty, name, with_node
from model.actions.applying import take_in_proof
from model.state import ABSENT, DOWN, FORMER, MINE, READY, REGISTERED, Call, Node, Proof, State, revision_of

if TYPE_CHECKING:
    from model.worlds import World

__all__ = [
    "crash",
    "lease_of_the_dead_ends",
    "lease_runs_out",
    "leave",
    "notice_restore",
    "read_mesh",
    "register",
    "register_anew",
    "renew",
]


def register(state: State, world: World) -> Steps:
    """A process starts and puts its record; its mirror comes after that.

    Code: interceptors/node/heartbeat.py Heartbeat._register.
    """
    for index, node in enumerate(state.nodes):
        if node.phase != DOWN:
            continue
        if not world.rules.register_before_read:
            ready = _read(node, state)._replace(since=-1)
            yield f"node {name(index)} reads the mesh at revision {ready.revision}", with_node(state, index, ready)
            continue
        revision = revision_of(state.etcd)
        registered = _registered(node._replace(phase=REGISTERED), revision, index, world)
        yield f"node {name(index)} registers, at revision {revision}", with_node(state, index, registered)


def _registered(node: Node, revision: int, index: int, world: World) -> Node:
    if world.timed:
        # The other nodes' leases may run out at any time: only the watched one's has a rest.
        return node._replace(record=MINE, rest=0 if index else world.lease)
    # Who registers for the first time is not excused for what it missed before.
    return node._replace(record=MINE, since=0 if node.since < 0 else revision)


def read_mesh(state: State, world: World) -> Steps:
    """The first read of the mesh.

    Code: interceptors/etcd/mirror.py Mirror._read; interceptors/trust/bundle.py TrustBundle.load.
    """
    for index, node in enumerate(state.nodes):
        if node.phase == REGISTERED:
            ready = _read(node, state)
            yield (
                f"node {name(index)} reads the mesh at revision {ready.revision} and serves",
                with_node(state, index, ready),
            )


def _read(node: Node, state: State) -> Node:
    etcd = state.etcd
    revision = revision_of(etcd)
    node = node._replace(
        phase=READY,
        revision=revision,
        epoch=0 if node.deaf else etcd.epoch,
        keys=etcd.keys,
        history=etcd.history,
        told=revision,
        queue=tuple((barrier, raised) for barrier, raised in enumerate(etcd.barriers) if raised),
        generation=node.generation + 1 if node.phase == READY and node.stamp else 0,
    )
    return take_in_proof(node)


def register_anew(state: State, world: World) -> Steps:
    """A node finds its lease or its record gone, and registers again.

    With the lease went its acknowledgements; it gives those again that stand for what it has applied.

    Code: interceptors/node/heartbeat.py Heartbeat._renew, Heartbeat._prove, Heartbeat._register.
    """
    rules = world.rules
    for index, node in enumerate(state.nodes):
        if node.phase != READY or node.record == MINE or node.proof.stage or node.halfway:
            continue
        revision = revision_of(state.etcd)
        anew = _registered(node, revision, index, world)
        if rules.lease_bound:
            anew = anew._replace(age=world.never, unproven=Proof())
        same = node.history == state.etcd.history or not rules.histories_are_told_apart
        owed = tuple(
            (barrier, raised)
            for barrier, raised in enumerate(state.etcd.barriers)
            if raised and same and raised <= node.revision and (barrier, raised) not in node.queue
        )
        text = f"node {name(index)} registers anew, at revision {revision}"
        yield text, with_node(state, index, anew._replace(queue=node.queue + owed))
        if owed and not rules.reregistering_reacks and state.left.faults:
            text += "; etcd does not answer when it reads the barriers"
            yield text, with_node(faulty(state), index, anew)


def renew(state: State, world: World) -> Steps:
    """The lease is renewed.

    Code: interceptors/node/heartbeat.py Heartbeat._renew; interceptors/etcd/lease.py KeptLease.renew.
    """
    for index, node in enumerate(state.nodes[:1]):
        if node.record == MINE and node.rest < world.lease and not node.proof.stage:
            yield f"node {name(index)} renews its lease", with_node(state, index, node._replace(rest=world.lease))


@fault
def lease_runs_out(state: State, world: World) -> Steps:
    """A node was silent for longer than its lease: its record goes, and its acknowledgements."""
    for index, node in enumerate(state.nodes):
        if node.record == ABSENT:
            continue
        if world.timed:
            if node.rest:
                continue
            after = state
        elif node.record == MINE and state.left.faults:
            after = faulty(state)
        else:
            continue
        yield (
            f"the lease of node {name(index)} runs out",
            with_node(after, index, node._replace(record=ABSENT, rest=0, acks=(0, 0))),
        )


def lease_of_the_dead_ends(state: State, world: World) -> Steps:
    """Where time does not go in ticks: the lease of a process that has died ends some time."""
    if world.timed:
        return
    for index, node in enumerate(state.nodes):
        if node.record == FORMER:
            yield (
                f"the lease of the dead node {name(index)} runs out",
                with_node(state, index, node._replace(record=ABSENT, acks=(0, 0))),
            )


@fault
def leave(state: State, world: World) -> Steps:
    """A node stops: it takes its record away, and goes on with calls while it drains.

    Code: interceptors/node/heartbeat.py Heartbeat._deregister.
    """
    for index, node in enumerate(state.nodes):
        if node.phase == READY and node.record == MINE and not node.proof.stage:
            yield (
                f"node {name(index)} deregisters and serves on",
                with_node(state, index, node._replace(record=ABSENT, rest=0, acks=(0, 0))),
            )


@fault
def crash(state: State, world: World) -> Steps:
    """A process dies. What etcd holds of it stays until its lease runs out; a new process may bear its id."""
    if not state.left.faults:
        return
    for index, node in enumerate(state.nodes):
        if node.phase == DOWN:
            continue
        dead = Node(
            record=FORMER if node.record != ABSENT else ABSENT,
            rest=node.rest,
            acks=node.acks,
            heard=node.heard,
            listed=node.listed,
            applied=node.applied,
            deaf=node.deaf,
            age=world.never,
            call=Call(),
        )
        yield f"node {name(index)} dies", with_node(faulty(state), index, dead)


def notice_restore(state: State, world: World) -> Steps:
    """The mirror finds another history and reads anew.

    Code: interceptors/etcd/mirror.py Mirror._same_history; interceptors/trust/bundle.py TrustBundle.load.
    """
    for index, node in enumerate(state.nodes):
        if node.phase == READY and node.history != state.etcd.history and not node.proof.stage:
            back = revision_of(state.etcd) < node.revision
            anew = node._replace(age=world.never, unproven=Proof()) if back else node
            yield (
                f"node {name(index)} notices that etcd has another history and reads it anew",
                with_node(state, index, _read(anew, state)),
            )
