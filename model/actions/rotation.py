"""Leader election, and rotating keys behind a barrier.

Modelled on authsvc/coordination/election.py and on rotator.py, rotation.py and transactions.py of authsvc/keys/.
Repairs of what only an edit in etcd can cause (Discard, Retire, RaiseBarrier, RemoveBarrier) are not modelled.
"""

from __future__ import annotations

from model.actions import commit, fault, faulty, name
from model.state import ABSENT, NO_LEADER, RECEIPT, ROTATION, Etcd, Leader, Node, State, holds
from model.world import Steps, World

__all__ = [
    "activate",
    "campaign",
    "decide",
    "expire_tokens",
    "lose_leadership",
    "prepare",
    "read_acks",
    "read_nodes",
    "remove",
    "request_rotation",
    "revoke_key",
    "sign_token",
]


def campaign(state: State, world: World) -> Steps:
    """A replica puts the leader's key, which is absent.

    Code: authsvc/coordination/election.py LeaderElection._campaign.
    """
    etcd = state.etcd
    if etcd.leader != NO_LEADER:
        return
    for index in range(len(state.leaders)):
        after = state._replace(etcd=etcd._replace(leader=index, term=etcd.term + 1))
        yield (
            f"replica {name(index)} leads, in term {etcd.term + 1}",
            _set_leader(after, index, Leader(fence=etcd.term + 1)),
        )


@fault
def lose_leadership(state: State, world: World) -> Steps:
    """The leader's lease runs out while it is paused or cut off. It does not learn of that, and goes on afterwards."""
    if state.etcd.leader != NO_LEADER and state.budget.faults:
        yield (
            f"the lease of leader {name(state.etcd.leader)} runs out; the leader does not learn of it",
            faulty(state)._replace(etcd=state.etcd._replace(leader=NO_LEADER)),
        )


@fault
def request_rotation(state: State, world: World) -> Steps:
    """An operator requests a new key, or the rotation interval has passed.

    Code: authsvc/keys/rotation_request.py request_rotation; authsvc/keys/rotation.py decide.
    """
    if state.budget.rotations and not state.etcd.rotation_requested:
        budget = state.budget._replace(rotations=state.budget.rotations - 1)
        etcd = state.etcd._replace(rotation_requested=True)
        yield "a rotation is requested", state._replace(etcd=etcd, budget=budget)


def decide(state: State, world: World) -> Steps:
    """The leader reads keys, signing record, request and barrier at one revision, and decides on its next step.

    Code: authsvc/keys/snapshot.py read_key_snapshot; authsvc/keys/rotation.py decide.
    """
    etcd = state.etcd
    for index, leader in enumerate(state.leaders):
        if not leader.fence or leader.stage:
            continue
        job = leader._replace(signing=etcd.signing, barrier=etcd.barriers[ROTATION], key=etcd.prepared)
        if etcd.prepared:
            if etcd.rotation_requested and _may_write(state, leader, index, world):
                # JoinRequest: the rotation in progress answers it.
                joined = state._replace(etcd=etcd._replace(rotation_requested=False))
                yield (
                    f"leader {name(index)} lets the rotation in progress answer the request",
                    _set_leader(joined, index, leader),
                )
                continue
            stage, text = ("acks" if world.rules.wait_for_acks else "activate"), f"key {etcd.prepared} is PREPARED"
            yield f"leader {name(index)} decides: {text}", _set_leader(state, index, job._replace(stage=stage))
        elif (etcd.rotation_requested or not etcd.signing) and _next_kid(etcd) <= world.keys:
            after = state
            if (
                not world.rules.nodes_after_raise
            ):  # a broken protocol: the nodes are listed before the barrier is raised
                after = state._replace(nodes=tuple(_listed(node, index) for node in state.nodes))
            yield (
                f"leader {name(index)} decides: a key is needed",
                _set_leader(after, index, job._replace(stage="prepare")),
            )
        else:
            for kid in range(1, world.keys + 1):
                if holds(etcd.keys, kid) and kid != etcd.signing and _tokens_expired(state, kid, world):
                    yield (
                        f"leader {name(index)} decides: key {kid} is RETIRING, and its tokens have expired",
                        _set_leader(state, index, job._replace(stage="remove", key=kid)),
                    )


def _tokens_expired(state: State, kid: int, world: World) -> bool:
    """Whether every token that the key signed has expired, including a token that is being signed now."""
    if not world.rules.keys_outlive_tokens:
        return True
    return not holds(state.signer.live_keys, kid) and state.signer.signing != kid


def _listed(node: Node, index: int) -> Node:
    return node._replace(listed_by=node.listed_by | (1 << index if node.record != ABSENT else 0))


def _next_kid(etcd: Etcd) -> int:
    """The next key id. No id is ever used twice."""
    return 1 + max(kid for kid, removed in enumerate(etcd.removal_revisions) if removed or holds(etcd.keys, kid))


def prepare(state: State, world: World) -> Steps:
    """One commit: the key, PREPARED, and the barrier.

    Code: authsvc/keys/transactions.py _prepare; authsvc/keys/rotator.py Rotator._commit_step.
    """
    etcd = state.etcd
    for index, leader in enumerate(state.leaders):
        if leader.stage != "prepare":
            continue
        done = _idle(leader)
        kid = _next_kid(etcd)
        unchanged = (etcd.signing, etcd.barriers[ROTATION], etcd.prepared) == (leader.signing, leader.barrier, 0)
        if kid > world.keys or not (
            _may_write(state, leader, index, world) and (unchanged or not world.rules.commits_compare)
        ):
            yield f"leader {name(index)} cannot prepare a key: something has changed", _set_leader(state, index, done)
            continue
        after = commit(etcd, ("key", kid), ("barrier", ROTATION))
        after = after._replace(
            keys=etcd.keys | 1 << kid,
            prepared=kid,
            barriers=(len(after.log), etcd.barriers[RECEIPT]),
            rotation_requested=False,
            deposed_leader_wrote=etcd.deposed_leader_wrote or _is_deposed(etcd, leader),
        )
        yield (
            f"leader {name(index)} prepares key {kid} and raises its barrier: revision {len(after.log)}",
            _set_leader(state._replace(etcd=after), index, done),
        )


def read_acks(state: State, world: World) -> Steps:
    """The leader reads which nodes have acknowledged the barrier.

    Code: authsvc/coordination/barriers.py read_unacknowledged_nodes.
    """
    for index, leader in enumerate(state.leaders):
        if leader.stage != "acks":
            continue
        bit = 1 << index
        nodes = tuple(
            node._replace(
                counted_by=node.counted_by | bit if _is_counted(node, leader, world) else node.counted_by & ~bit
            )
            for node in state.nodes
        )
        text = ", ".join(name(number) for number, node in enumerate(nodes) if node.counted_by & bit) or "none"
        yield (
            f"leader {name(index)} reads the acknowledgements: {text}",
            _set_leader(state._replace(nodes=nodes), index, leader._replace(stage="nodes")),
        )


def _is_counted(node: Node, leader: Leader, world: World) -> bool:
    ack = node.acks[ROTATION]
    return ack >= leader.barrier if world.rules.acks_name_revisions else ack > 0


def read_nodes(state: State, world: World) -> Steps:
    """The leader reads the nodes. If one of them has not acknowledged, it waits and reads again later.

    Code: authsvc/coordination/barriers.py read_unacknowledged_nodes.
    """
    for index, leader in enumerate(state.leaders):
        if leader.stage != "nodes":
            continue
        bit = 1 << index
        waiting = [
            name(number)
            for number, node in enumerate(state.nodes)
            if not node.counted_by & bit
            and (node.record != ABSENT if world.rules.nodes_after_raise else bool(node.listed_by & bit))
        ]
        clean = state._replace(nodes=tuple(node._replace(counted_by=node.counted_by & ~bit) for node in state.nodes))
        if waiting:
            text = f"leader {name(index)} reads the nodes, and waits for {', '.join(waiting)}"
            yield text, _set_leader(clean, index, _idle(leader))
        else:
            text = f"leader {name(index)} reads the nodes: all have acknowledged"
            yield text, _set_leader(clean, index, leader._replace(stage="activate"))


def activate(state: State, world: World) -> Steps:
    """One commit: the key becomes ACTIVE, its predecessor RETIRING, and the barrier is removed.

    Code: authsvc/keys/transactions.py _activate; authsvc/keys/rotator.py Rotator._commit_step.
    """
    etcd = state.etcd
    for index, leader in enumerate(state.leaders):
        if leader.stage != "activate":
            continue
        done = _idle(leader)
        read_before = (leader.signing, leader.barrier, leader.key)
        unchanged = (etcd.signing, etcd.barriers[ROTATION], etcd.prepared) == read_before
        if not (_may_write(state, leader, index, world) and (unchanged or not world.rules.commits_compare)):
            yield (
                f"leader {name(index)} cannot activate key {leader.key}: something has changed",
                _set_leader(state, index, done),
            )
            continue
        after = commit(etcd)._replace(
            signing=leader.key,
            prepared=0 if etcd.prepared == leader.key else etcd.prepared,
            barriers=(0, etcd.barriers[RECEIPT]),
            deposed_leader_wrote=etcd.deposed_leader_wrote or _is_deposed(etcd, leader),
        )
        nodes = tuple(node._replace(acks=(0, node.acks[RECEIPT])) for node in state.nodes)
        yield (
            f"leader {name(index)} activates key {leader.key}",
            _set_leader(state._replace(etcd=after, nodes=nodes), index, done),
        )


def remove(state: State, world: World) -> Steps:
    """A RETIRING key is removed when the tokens that it signed have expired.

    Code: authsvc/keys/transactions.py transaction_for; authsvc/keys/rotation.py Remove.
    """
    etcd = state.etcd
    for index, leader in enumerate(state.leaders):
        if leader.stage != "remove":
            continue
        done = _idle(leader)
        unchanged = etcd.signing == leader.signing and holds(etcd.keys, leader.key)
        if not (_may_write(state, leader, index, world) and (unchanged or not world.rules.commits_compare)):
            yield (
                f"leader {name(index)} cannot remove key {leader.key}: something has changed",
                _set_leader(state, index, done),
            )
            continue
        after = _remove_key(etcd, leader.key)
        after = after._replace(deposed_leader_wrote=etcd.deposed_leader_wrote or _is_deposed(etcd, leader))
        yield f"leader {name(index)} removes key {leader.key}", _set_leader(state._replace(etcd=after), index, done)


@fault
def revoke_key(state: State, world: World) -> Steps:
    """A replica revokes a key, in one commit that compares what it read.

    This is one step: a commit whose comparison fails changes nothing, and is retried.

    Code: authsvc/keys/revoker.py KeyRevoker.revoke.
    """
    etcd, budget = state.etcd, state.budget
    if not budget.revocations:
        return
    for kid in range(1, world.keys + 1):
        if not holds(etcd.keys, kid):
            continue
        after, nodes = _remove_key(etcd, kid), state.nodes
        if kid == etcd.signing:
            after = after._replace(signing=0, rotation_requested=True)
        if kid == etcd.prepared:
            after = after._replace(prepared=0, barriers=(0, etcd.barriers[RECEIPT]), rotation_requested=True)
            nodes = tuple(node._replace(acks=(0, node.acks[RECEIPT])) for node in nodes)
        signer = state.signer._replace(live_keys=state.signer.live_keys & ~(1 << kid))
        yield (
            f"key {kid} is revoked: revision {len(after.log)}",
            state._replace(
                etcd=after, nodes=nodes, signer=signer, budget=budget._replace(revocations=budget.revocations - 1)
            ),
        )


def _remove_key(etcd: Etcd, kid: int) -> Etcd:
    after = commit(etcd, ("gone", kid))
    removed = tuple(len(after.log) if number == kid else at for number, at in enumerate(etcd.removal_revisions))
    return after._replace(keys=etcd.keys & ~(1 << kid), removal_revisions=removed)


def sign_token(state: State, world: World) -> Steps:
    """A token is signed with the key that the signing record named when it was read, and issued.

    This is how client credentials are issued, which compare nothing. Logins and refreshes compare more, so they allow
    less.

    Code: authsvc/sessions/issuer.py Issuer.sign.
    """
    signer, etcd = state.signer, state.etcd
    if signer.signing:
        revoked = etcd.removal_revisions[signer.signing] > 0
        live = signer.live_keys | (0 if revoked else 1 << signer.signing)
        text = "; it was revoked meanwhile" if revoked else ""
        yield (
            f"a token signed by key {signer.signing} is issued{text}",
            state._replace(signer=signer._replace(signing=0, live_keys=live)),
        )
    elif etcd.signing and not holds(signer.live_keys, etcd.signing):
        yield (
            f"a replica reads that key {etcd.signing} is ACTIVE",
            state._replace(signer=signer._replace(signing=etcd.signing)),
        )


def expire_tokens(state: State, world: World) -> Steps:
    """All tokens of a key that is not ACTIVE any more have expired."""
    for kid in range(1, world.keys + 1):
        if holds(state.signer.live_keys, kid) and kid != state.etcd.signing and state.signer.signing != kid:
            signer = state.signer._replace(live_keys=state.signer.live_keys & ~(1 << kid))
            yield f"the last token of key {kid} expires", state._replace(signer=signer)


def _idle(leader: Leader) -> Leader:
    """The leader after a step: it decides next."""
    return leader._replace(stage="", signing=0, barrier=0, key=0)


def _is_deposed(etcd: Etcd, leader: Leader) -> bool:
    return etcd.leader == NO_LEADER or leader.fence != etcd.term


def _may_write(state: State, leader: Leader, index: int, world: World) -> bool:
    """The fence: the leader's key is unchanged since this term began (interceptors/etcd/client.py, CreatedAt)."""
    etcd = state.etcd
    return not world.rules.fenced or (etcd.leader == index and etcd.term == leader.fence)


def _set_leader(state: State, index: int, leader: Leader) -> State:
    leaders = state.leaders
    return state._replace(leaders=(*leaders[:index], leader, *leaders[index + 1 :]))
