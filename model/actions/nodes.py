"""A node's life: registering, reading the mesh, losing its lease, dying."""

from __future__ import annotations

from model.actions import fault, faulty, name, with_node
from model.actions.applying import count_pending_proof
from model.state import ABSENT, CURRENT, DOWN, FORMER, READY, REGISTERED, Call, Node, Proof, State, revision_of
from model.world import Steps, World

__all__ = [
    "crash",
    "expire_lease",
    "expire_lease_of_dead_node",
    "leave",
    "notice_restore",
    "read_mesh",
    "register",
    "register_again",
    "renew",
]


def register(state: State, world: World) -> Steps:
    """A process starts and puts its record; its mirror starts after that.

    Code: interceptors/node/heartbeat.py Heartbeat._register.
    """
    for index, node in enumerate(state.nodes):
        if node.phase != DOWN:
            continue
        if not world.rules.register_before_read:
            ready = _having_read(node, state)._replace(registration_revision=-1)
            yield f"node {name(index)} reads the mesh at revision {ready.revision}", with_node(state, index, ready)
            continue
        revision = revision_of(state.etcd)
        registered = _with_registration(node._replace(phase=REGISTERED), revision, index, world)
        yield f"node {name(index)} registers, at revision {revision}", with_node(state, index, registered)


def _with_registration(node: Node, revision: int, index: int, world: World) -> Node:
    if world.timed:
        # Only the first node's lease is timed. The other nodes' leases can run out at any time.
        return node._replace(record=CURRENT, lease_left=0 if index else world.lease)
    # A first registration excuses no missing key: see rotation_refuses_no_valid_token.
    return node._replace(record=CURRENT, registration_revision=0 if node.registration_revision < 0 else revision)


def read_mesh(state: State, world: World) -> Steps:
    """The first read of the mesh.

    Code: interceptors/etcd/mirror.py Mirror._read; interceptors/trust/bundle.py TrustBundle.load.
    """
    for index, node in enumerate(state.nodes):
        if node.phase == REGISTERED:
            ready = _having_read(node, state)
            yield (
                f"node {name(index)} reads the mesh at revision {ready.revision} and serves",
                with_node(state, index, ready),
            )


def _having_read(node: Node, state: State) -> Node:
    etcd = state.etcd
    revision = revision_of(etcd)
    node = node._replace(
        phase=READY,
        revision=revision,
        epoch=0 if node.ignores_epochs else etcd.epoch,
        keys=etcd.keys,
        history=etcd.history,
        heard_revision=revision,
        pending_acks=tuple((barrier, raised) for barrier, raised in enumerate(etcd.barriers) if raised),
        generation=node.generation + 1 if node.phase == READY and node.cached_generation else 0,
    )
    return count_pending_proof(node)


def register_again(state: State, world: World) -> Steps:
    """A node finds that its lease or its record is gone, and registers again.

    Its acknowledgements ended with the lease. It repeats those for revisions that it has applied.

    Code: interceptors/node/heartbeat.py Heartbeat._renew_lease, Heartbeat._prove_freshness, Heartbeat._register.
    """
    rules = world.rules
    for index, node in enumerate(state.nodes):
        if node.phase != READY or node.record == CURRENT or node.proof.stage or node.apply_step:
            continue
        revision = revision_of(state.etcd)
        renewed = _with_registration(node, revision, index, world)
        if rules.lease_bound:
            renewed = renewed._replace(proof_age=world.never, pending_proof=Proof())
        same = node.history == state.etcd.history or not rules.histories_are_compared
        owed = tuple(
            (barrier, raised)
            for barrier, raised in enumerate(state.etcd.barriers)
            if raised and same and raised <= node.revision and (barrier, raised) not in node.pending_acks
        )
        text = f"node {name(index)} registers again, at revision {revision}"
        yield text, with_node(state, index, renewed._replace(pending_acks=node.pending_acks + owed))
        if owed and not rules.reregistering_reacks and state.budget.faults:
            text += "; etcd does not answer when it reads the barriers"
            yield text, with_node(faulty(state), index, renewed)


def renew(state: State, world: World) -> Steps:
    """The lease is renewed.

    Code: interceptors/node/heartbeat.py Heartbeat._renew_lease; interceptors/etcd/lease.py RenewableLease.renew.
    """
    for index, node in enumerate(state.nodes[:1]):
        if node.record == CURRENT and node.lease_left < world.lease and not node.proof.stage:
            yield f"node {name(index)} renews its lease", with_node(state, index, node._replace(lease_left=world.lease))


@fault
def expire_lease(state: State, world: World) -> Steps:
    """A node was silent for longer than its lease: its record and its acknowledgements are deleted."""
    for index, node in enumerate(state.nodes):
        if node.record == ABSENT:
            continue
        if world.timed:
            if node.lease_left:
                continue
            after = state
        elif node.record == CURRENT and state.budget.faults:
            after = faulty(state)
        else:
            continue
        yield (
            f"the lease of node {name(index)} runs out",
            with_node(after, index, node._replace(record=ABSENT, lease_left=0, acks=(0, 0))),
        )


def expire_lease_of_dead_node(state: State, world: World) -> Steps:
    """In a world without ticks: the lease of a process that has died runs out at some time."""
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
    """A node stops: it deletes its record, and goes on serving calls while it drains.

    Code: interceptors/node/heartbeat.py Heartbeat._deregister.
    """
    for index, node in enumerate(state.nodes):
        if node.phase == READY and node.record == CURRENT and not node.proof.stage:
            yield (
                f"node {name(index)} deregisters and goes on serving",
                with_node(state, index, node._replace(record=ABSENT, lease_left=0, acks=(0, 0))),
            )


@fault
def crash(state: State, world: World) -> Steps:
    """A process dies. Its record in etcd stays until its lease runs out; a new process can have the same id."""
    if not state.budget.faults:
        return
    for index, node in enumerate(state.nodes):
        if node.phase == DOWN:
            continue
        dead = Node(
            record=FORMER if node.record != ABSENT else ABSENT,
            lease_left=node.lease_left,
            acks=node.acks,
            counted_by=node.counted_by,
            listed_by=node.listed_by,
            in_receipt=node.in_receipt,
            ignores_epochs=node.ignores_epochs,
            proof_age=world.never,
            call=Call(),
        )
        yield f"node {name(index)} dies", with_node(faulty(state), index, dead)


def notice_restore(state: State, world: World) -> Steps:
    """The mirror finds another history and reads everything again.

    Code: interceptors/etcd/mirror.py Mirror._has_same_history; interceptors/trust/bundle.py TrustBundle.load.
    """
    for index, node in enumerate(state.nodes):
        if node.phase == READY and node.history != state.etcd.history and not node.proof.stage:
            went_back = revision_of(state.etcd) < node.revision
            renewed = node._replace(proof_age=world.never, pending_proof=Proof()) if went_back else node
            yield (
                f"node {name(index)} notices that etcd has another history and reads everything",
                with_node(state, index, _having_read(renewed, state)),
            )
