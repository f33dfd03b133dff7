"""Proving freshness, and deciding on a call: what a strict method rests on.

Nodes do not act on each other, and any of them may be the one that a caller tries. So one node, the first, is watched:
only its proofs, its clocks and its calls are followed. The others are there to be waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.actions import Steps, fault, name, with_node
from model.actions.receipts import promises_all
from model.state import ACCEPTED, DOWN, MINE, READY, Call, Node, Proof, State

if TYPE_CHECKING:
    from model.worlds import World

__all__ = [
    "begin_call",
    "check_epochs",
    "check_proof",
    "forget_call",
    "receive_proof",
    "send_proof",
    "serve_proof",
    "sleep",
    "tick",
]


def send_proof(state: State, world: World) -> Steps:
    """A node takes the time and sends the read of the beacon.

    Code: interceptors/node/heartbeat.py Heartbeat._prove.
    """
    for index, node in enumerate(state.nodes[:1]):
        # Where the newest proof is of this tick, another one would not be newer.
        if node.phase == DOWN or node.proof.stage or node.age == 0:
            continue
        yield (
            f"node {name(index)} sends a read of the beacon",
            with_node(state, index, node._replace(proof=Proof("sent"))),
        )


def serve_proof(state: State, world: World) -> Steps:
    """etcd answers the read, linearizably: with the revision of the newest commit below mesh/.

    Code: interceptors/node/heartbeat.py Heartbeat._prove.
    """
    etcd = state.etcd
    for index, node in enumerate(state.nodes):
        if node.proof.stage != "sent":
            continue
        if world.rules.lease_bound and node.record != MINE:
            yield (
                f"etcd answers the read of node {name(index)}: its record is gone, so it proves nothing",
                with_node(state, index, node._replace(proof=Proof())),
            )
            continue
        read = Proof("read", node.proof.elapsed, etcd.beacon, etcd.history)
        yield (
            f"etcd answers the read of node {name(index)}: the beacon is of revision {etcd.beacon}",
            with_node(state, index, node._replace(proof=read)),
        )


def receive_proof(state: State, world: World) -> Steps:
    """The node takes the answer in, under the lock of those who write the bundle.

    Code: interceptors/trust/bundle.py TrustBundle.prove.
    """
    rules = world.rules
    for index, node in enumerate(state.nodes):
        proof = node.proof
        if proof.stage != "read" or node.halfway:
            continue
        done = node._replace(proof=Proof())
        if rules.histories_are_told_apart and proof.history != node.history:
            text = "learns that etcd has another history, which proves nothing"
            after = done
        elif node.revision >= proof.beacon or not rules.proof_waits_for_revision:
            age = proof.elapsed if rules.proof_from_send else 0
            text = f"has it proven that revision {node.revision} was all there was {_ago(age)}"
            after = done._replace(age=min(age, world.never))
        else:
            text = f"waits for revision {proof.beacon}, which proves freshness"
            waits = proof if rules.proof_from_send else proof._replace(elapsed=0)
            after = done._replace(unproven=waits)
        yield f"node {name(index)} {text}", with_node(state, index, after)


def begin_call(state: State, world: World) -> Steps:
    """A call with the credential comes in; its age limits count from now.

    Code: interceptors/verification/verifier.py Verifier.check.
    """
    if not state.left.calls:
        return
    late = promises_all(state, world)
    for index, node in enumerate(state.nodes[:1]):
        if node.phase != READY or node.call.stage:
            continue
        after = state._replace(left=state.left._replace(calls=state.left.calls - 1))
        if late or world.early_calls:
            yield (
                f"a call begins on a strict method of node {name(index)}{', which the receipt closed' if late else ''}",
                with_node(after, index, node._replace(call=Call("begun", late=late, strict=True))),
            )
        # A node that the receipt says has applied the revocation refuses on any method, at once.
        if node.applied:
            yield (
                f"a call begins on a method of node {name(index)} that need not be fresh; the receipt says that "
                "it has applied the revocation",
                with_node(after, index, node._replace(call=Call("begun", late=True, strict=False))),
            )


def check_proof(state: State, world: World) -> Steps:
    """A strict call looks at the newest proof.

    Code: interceptors/verification/verifier.py Verifier._allow.
    """
    rules = world.rules
    for index, node in enumerate(state.nodes):
        call = node.call
        due = "begun" if rules.proof_before_epochs else "passed"
        if call.stage != due:
            continue
        fresh = not (call.strict and rules.refuses_stale) or _is_fresh(node, world)
        if not fresh:
            yield f"node {name(index)} refuses the call: MESH_STALE", with_node(state, index, _ended(node))
        elif due == "begun":
            yield (
                f"the call on node {name(index)} finds the proof new enough",
                with_node(state, index, node._replace(call=call._replace(stage="fresh", fresh=True))),
            )
        else:
            yield f"node {name(index)} ACCEPTS the call", with_node(state, index, _accepted(node))


def _is_fresh(node: Node, world: World) -> bool:
    """monotonic - proven_at <= freshness, with the time at which the call began."""
    waited = node.call.waited
    if world.rules.lease_bound and not (node.record == MINE and node.rest + waited > 0):
        return False
    return node.age < world.never and node.age - waited <= world.freshness


def check_epochs(state: State, world: World) -> Steps:
    """The call is checked against the epochs, if the generation has moved since it last was.

    In a world with small steps: the generation is read, then the epochs, and then the credential's entry is stamped.

    Code: interceptors/verification/verifier.py Verifier.recheck.
    """
    rules = world.rules
    for index, node in enumerate(state.nodes):
        call = node.call
        ready = "fresh" if rules.proof_before_epochs else "begun"
        passed = _accepted(node) if rules.proof_before_epochs else node._replace(call=call._replace(stage="passed"))
        verdict = "ACCEPTS the call" if rules.proof_before_epochs else "finds no revocation"
        if call.stage == ready:
            if not world.small_steps:
                if node.epoch:
                    yield _refused(state, index)
                else:
                    yield f"node {name(index)} {verdict}", with_node(state, index, passed)
            elif node.generation == node.stamp:
                text = f"node {name(index)} {verdict}: generation {node.stamp} is as it was"
                yield text, with_node(state, index, passed)
            elif not rules.generation_before_epochs and node.epoch:
                yield _refused(state, index)
            else:
                moved = call._replace(stage="moved", seen=node.generation)
                yield (
                    f"node {name(index)} finds that generation {node.generation} is new",
                    with_node(state, index, node._replace(call=moved)),
                )
        elif call.stage == "moved":
            if rules.generation_before_epochs and node.epoch:
                yield _refused(state, index)
                continue
            stamp = call.seen if rules.generation_before_epochs else node.generation
            yield (
                f"node {name(index)} {verdict} and stamps the credential with generation {stamp}",
                with_node(state, index, passed._replace(stamp=stamp)),
            )


def _refused(state: State, index: int) -> tuple[str, State]:
    node = state.nodes[index]
    return f"node {name(index)} refuses the call: CREDENTIAL_REVOKED", with_node(state, index, _ended(node))


def _accepted(node: Node) -> Node:
    return node._replace(call=node.call._replace(stage=ACCEPTED, waited=0, fresh=False, seen=0))


def _ended(node: Node) -> Node:
    return node._replace(call=Call())


def forget_call(state: State, world: World) -> Steps:
    """An accepted call that began before the receipt is of no further interest."""
    for index, node in enumerate(state.nodes):
        if node.call.stage == ACCEPTED and not node.call.late:
            yield f"the call on node {name(index)} is over", with_node(state, index, _ended(node))


def tick(state: State, world: World) -> Steps:
    """Time passes, for all alike."""
    if world.timed:
        nodes = tuple(_older(node, world) for node in state.nodes)
        yield "time passes", _later(state, nodes, world)


@fault
def sleep(state: State, world: World) -> Steps:
    """Only in a broken protocol: the machine of a node sleeps while time passes, and its clock with it."""
    if world.rules.clocks_never_stop:
        return
    for asleep in range(len(state.nodes)):
        nodes = tuple(
            node._replace(rest=max(node.rest - 1, 0)) if index == asleep else _older(node, world)
            for index, node in enumerate(state.nodes)
        )
        yield f"time passes while the machine of node {name(asleep)} sleeps", _later(state, nodes, world)


def _later(state: State, nodes: tuple[Node, ...], world: World) -> State:
    receipt = state.receipt
    counts = receipt.stage in ("watching", "acks", "made") or (
        not world.rules.bound_from_answer and receipt.stage in ("about", "committed")
    )
    if counts:
        receipt = receipt._replace(since=min(receipt.since + 1, world.freshness + 1))
    return state._replace(nodes=nodes, receipt=receipt)


def _older(node: Node, world: World) -> Node:
    never = world.never
    call = node.call
    if call.stage in ("begun", "passed", "fresh", "moved"):
        call = call._replace(waited=min(call.waited + 1, world.patience))
    age = min(node.age + 1, never)
    return node._replace(
        rest=max(node.rest - 1, 0),
        age=age,
        proof=_aged(node.proof, never),
        unproven=_aged(node.unproven, never),
        call=call,
    )


def _aged(proof: Proof, never: int) -> Proof:
    if not proof.stage:
        return proof
    elapsed = proof.elapsed + 1
    # What was sent that long ago proves nothing that anybody would accept: it may as well have failed.
    return Proof() if elapsed >= never else proof._replace(elapsed=elapsed)


def _ago(ticks: int) -> str:
    return "a moment ago" if ticks == 0 else f"{ticks} tick{'s' * (ticks > 1)} ago"
