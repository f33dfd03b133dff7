"""Proving freshness, and deciding on a call: what a strict method rests on.

Nodes do not act on each other, and a caller can try any of them. So the model follows the proofs, clocks and calls of
one node only, the first. The other nodes are there to be waited for.
"""

from __future__ import annotations

from model.actions import fault, name, with_node
from model.actions.receipts import promises_all
from model.state import ACCEPTED, CURRENT, DOWN, READY, Call, Node, Proof, State
from model.world import Steps, World

__all__ = [
    "begin_call",
    "check_epochs",
    "check_proof",
    "drop_early_call",
    "receive_proof",
    "send_proof",
    "serve_proof",
    "suspend",
    "tick",
]


def send_proof(state: State, world: World) -> Steps:
    """A node reads its clock and sends the read of the beacon.

    Code: interceptors/node/heartbeat.py Heartbeat._prove_freshness.
    """
    for index, node in enumerate(state.nodes[:1]):
        # If the newest proof is of this tick, another one would not be newer.
        if node.phase == DOWN or node.proof.stage or node.proof_age == 0:
            continue
        yield (
            f"node {name(index)} sends a read of the beacon",
            with_node(state, index, node._replace(proof=Proof("sent"))),
        )


def serve_proof(state: State, world: World) -> Steps:
    """etcd answers the linearizable read with the revision of the newest commit below mesh/.

    Code: interceptors/node/heartbeat.py Heartbeat._prove_freshness.
    """
    etcd = state.etcd
    for index, node in enumerate(state.nodes):
        if node.proof.stage != "sent":
            continue
        if world.rules.lease_bound and node.record != CURRENT:
            yield (
                f"etcd answers the read of node {name(index)}: without its record, so it proves nothing",
                with_node(state, index, node._replace(proof=Proof())),
            )
            continue
        read = Proof("read", node.proof.elapsed, etcd.beacon, etcd.history)
        yield (
            f"etcd answers the read of node {name(index)}: the beacon has revision {etcd.beacon}",
            with_node(state, index, node._replace(proof=read)),
        )


def receive_proof(state: State, world: World) -> Steps:
    """The node processes the answer, under the lock that every writer of the trust bundle takes.

    Code: interceptors/trust/bundle.py TrustBundle.add_proof.
    """
    rules = world.rules
    for index, node in enumerate(state.nodes):
        proof = node.proof
        if proof.stage != "read" or node.apply_step:
            continue
        done = node._replace(proof=Proof())
        if rules.histories_are_compared and proof.history != node.history:
            text = "learns that etcd has another history: the read proves nothing"
            after = done
        elif node.revision >= proof.beacon or not rules.proof_waits_for_revision:
            age = proof.elapsed if rules.proof_from_send else 0
            text = f"has proof that revision {node.revision} was the newest {_ago(age)}"
            after = done._replace(proof_age=min(age, world.never))
        else:
            text = f"has a proof that waits for revision {proof.beacon}"
            waits = proof if rules.proof_from_send else proof._replace(elapsed=0)
            after = done._replace(pending_proof=waits)
        yield f"node {name(index)} {text}", with_node(state, index, after)


def begin_call(state: State, world: World) -> Steps:
    """A call with the credential arrives; its age limits count from now.

    Code: interceptors/verification/verifier.py Verifier.verify_cached.
    """
    if not state.budget.calls:
        return
    after_receipt = promises_all(state, world)
    for index, node in enumerate(state.nodes[:1]):
        if node.phase != READY or node.call.stage:
            continue
        after = state._replace(budget=state.budget._replace(calls=state.budget.calls - 1))
        if after_receipt or world.early_calls:
            yield (
                f"a call begins on a strict method of node {name(index)}{' after the receipt' * after_receipt}",
                with_node(after, index, node._replace(call=Call("begun", after_receipt=after_receipt, strict=True))),
            )
        # A node that has applied the revocation, according to the receipt, refuses on every method at once.
        if node.in_receipt:
            yield (
                f"a call begins on a plain method of node {name(index)}, which has applied the revocation according "
                "to the receipt",
                with_node(after, index, node._replace(call=Call("begun", after_receipt=True, strict=False))),
            )


def check_proof(state: State, world: World) -> Steps:
    """A strict call checks the age of the newest proof.

    Code: interceptors/verification/verifier.py Verifier._authorize.
    """
    rules = world.rules
    for index, node in enumerate(state.nodes):
        call = node.call
        due = "begun" if rules.proof_before_epochs else "passed"
        if call.stage != due:
            continue
        fresh = not (call.strict and rules.refuses_stale) or _is_fresh(node, world)
        if not fresh:
            yield f"node {name(index)} refuses the call: MESH_STALE", with_node(state, index, _without_call(node))
        elif due == "begun":
            yield (
                f"the call on node {name(index)} finds the proof new enough",
                with_node(state, index, node._replace(call=call._replace(stage="fresh"))),
            )
        else:
            yield f"node {name(index)} ACCEPTS the call", with_node(state, index, _accepted(node))


def _is_fresh(node: Node, world: World) -> bool:
    """Whether the proof was new enough when the call began: began_at - proven_at <= freshness."""
    waited = node.call.waited
    if world.rules.lease_bound and not (node.record == CURRENT and node.lease_left + waited > 0):
        return False
    return node.proof_age < world.never and node.proof_age - waited <= world.freshness


def check_epochs(state: State, world: World) -> Steps:
    """The call checks the epochs, if the generation has changed since the cached check.

    In a world with small steps, it reads the generation, then the epochs, and then writes the generation that it has
    read to the credential's cache entry.

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
            elif node.generation == node.cached_generation:
                text = f"node {name(index)} {verdict}: generation {node.cached_generation} is unchanged"
                yield text, with_node(state, index, passed)
            elif not rules.generation_before_epochs and node.epoch:
                yield _refused(state, index)
            else:
                moved = call._replace(stage="moved", generation_read=node.generation)
                yield (
                    f"node {name(index)} finds a new generation, {node.generation}",
                    with_node(state, index, node._replace(call=moved)),
                )
        elif call.stage == "moved":
            if rules.generation_before_epochs and node.epoch:
                yield _refused(state, index)
                continue
            stamp = call.generation_read if rules.generation_before_epochs else node.generation
            yield (
                f"node {name(index)} {verdict} and caches the result under generation {stamp}",
                with_node(state, index, passed._replace(cached_generation=stamp)),
            )


def _refused(state: State, index: int) -> tuple[str, State]:
    node = state.nodes[index]
    return f"node {name(index)} refuses the call: CREDENTIAL_REVOKED", with_node(state, index, _without_call(node))


def _accepted(node: Node) -> Node:
    return node._replace(call=node.call._replace(stage=ACCEPTED, waited=0, generation_read=0))


def _without_call(node: Node) -> Node:
    return node._replace(call=Call())


def drop_early_call(state: State, world: World) -> Steps:
    """Drops an accepted call that began before the receipt: it breaks no promise."""
    for index, node in enumerate(state.nodes):
        if node.call.stage == ACCEPTED and not node.call.after_receipt:
            yield f"the call on node {name(index)} ends", with_node(state, index, _without_call(node))


def tick(state: State, world: World) -> Steps:
    """Time passes, equally for all nodes."""
    if world.timed:
        nodes = tuple(_one_tick_older(node, world) for node in state.nodes)
        yield "time passes", _after_tick(state, nodes, world)


@fault
def suspend(state: State, world: World) -> Steps:
    """Only in a broken protocol: a node's machine is suspended while time passes, and its clock stops, too."""
    if world.rules.clocks_never_stop:
        return
    for suspended in range(len(state.nodes)):
        nodes = tuple(
            node._replace(lease_left=max(node.lease_left - 1, 0))
            if index == suspended
            else _one_tick_older(node, world)
            for index, node in enumerate(state.nodes)
        )
        yield f"time passes while the machine of node {name(suspended)} is suspended", _after_tick(state, nodes, world)


def _after_tick(state: State, nodes: tuple[Node, ...], world: World) -> State:
    receipt = state.receipt
    counts = receipt.stage in ("watching", "acks", "made") or (
        not world.rules.bound_from_answer and receipt.stage in ("about", "committed")
    )
    if counts:
        receipt = receipt._replace(ticks_since_commit=min(receipt.ticks_since_commit + 1, world.freshness + 1))
    return state._replace(nodes=nodes, receipt=receipt)


def _one_tick_older(node: Node, world: World) -> Node:
    never = world.never
    call = node.call
    if call.stage in ("begun", "passed", "fresh", "moved"):
        call = call._replace(waited=min(call.waited + 1, world.patience))
    age = min(node.proof_age + 1, never)
    return node._replace(
        lease_left=max(node.lease_left - 1, 0),
        proof_age=age,
        proof=_proof_one_tick_older(node.proof, never),
        pending_proof=_proof_one_tick_older(node.pending_proof, never),
        call=call,
    )


def _proof_one_tick_older(proof: Proof, never: int) -> Proof:
    if not proof.stage:
        return proof
    elapsed = proof.elapsed + 1
    # A proof that was sent that long ago is too old for every rule: the same as a read that failed.
    return Proof() if elapsed >= never else proof._replace(elapsed=elapsed)


def _ago(ticks: int) -> str:
    return "a moment ago" if ticks == 0 else f"{ticks} tick{'s' * (ticks > 1)} ago"
