"""Leading, and rotating keys behind a barrier (authsvc/coordination/election.py, authsvc/keys/rotator.py, rotation.py,
changes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.actions import Steps, commit, fault, faulty, name
from model.state import ABSENT, NOBODY, ROTATION, Etcd, Leader, Node, State, holds

if TYPE_CHECKING:
    from model.worlds import World

__all__ = [
    "activate",
    "ask_for_rotation",
    "campaign",
    "decide",
    "expire_tokens",
    "look_at_acks",
    "look_at_nodes",
    "lose_lead",
    "prepare",
    "remove",
    "revoke_key",
    "sign_token",
]


def campaign(state: State, world: World) -> Steps:
    """A replica takes the leader's key, which nobody has.

    Code: authsvc/coordination/election.py Leader._campaign.
    """
    etcd = state.etcd
    if etcd.leader != NOBODY:
        return
    for index in range(len(state.leaders)):
        after = state._replace(etcd=etcd._replace(leader=index, term=etcd.term + 1))
        yield f"replica {name(index)} leads, in term {etcd.term + 1}", _with(after, index, Leader(fence=etcd.term + 1))


@fault
def lose_lead(state: State, world: World) -> Steps:
    """The leader's lease runs out while it is paused or cut off. It does not know, and goes on when it wakes up."""
    if state.etcd.leader != NOBODY and state.left.faults:
        yield (
            f"the lease of leader {name(state.etcd.leader)} runs out; it does not know",
            faulty(state)._replace(etcd=state.etcd._replace(leader=NOBODY)),
        )


@fault
def ask_for_rotation(state: State, world: World) -> Steps:
    """Somebody wants a new key, or it is time for one.

    Code: authsvc/keys/rotation_request.py request_rotation; authsvc/keys/rotation.py decide.
    """
    if state.left.rotations and not state.etcd.request:
        left = state.left._replace(rotations=state.left.rotations - 1)
        yield "a rotation is asked for", state._replace(etcd=state.etcd._replace(request=True), left=left)


def decide(state: State, world: World) -> Steps:
    """The leader reads keys, signing record, request and barrier at one revision, and decides what is next.

    Code: authsvc/keys/snapshot.py read_key_snapshot; authsvc/keys/rotation.py decide.
    """
    etcd = state.etcd
    for index, leader in enumerate(state.leaders):
        if not leader.fence or leader.stage:
            continue
        saw = leader._replace(signing=etcd.signing, barrier=etcd.barriers[ROTATION], key=etcd.prepared)
        if etcd.prepared:
            if etcd.request and _may_write(state, leader, index, world):
                # JoinRequest: the rotation under way answers it.
                joined = state._replace(etcd=etcd._replace(request=False))
                yield (
                    f"leader {name(index)} has the rotation under way answer the request",
                    _with(joined, index, leader),
                )
                continue
            stage, text = ("acks" if world.rules.wait_for_acks else "activate"), f"key {etcd.prepared} is PREPARED"
            yield f"leader {name(index)} looks: {text}", _with(state, index, saw._replace(stage=stage))
        elif (etcd.request or not etcd.signing) and _next_kid(etcd) <= world.keys:
            after = state
            if not world.rules.nodes_after_raise:
                after = state._replace(nodes=tuple(_listed(node, index) for node in state.nodes))
            yield f"leader {name(index)} looks: a key is wanted", _with(after, index, saw._replace(stage="prepare"))
        else:
            for kid in range(1, world.keys + 1):
                if holds(etcd.keys, kid) and kid != etcd.signing and _expired(state, kid, world):
                    yield (
                        f"leader {name(index)} looks: key {kid} is retired, and what it signed has expired",
                        _with(state, index, saw._replace(stage="remove", key=kid)),
                    )


def _expired(state: State, kid: int, world: World) -> bool:
    """Retirement lasts longer than any token that the key signed, one that is just being made included."""
    if not world.rules.keys_outlive_tokens:
        return True
    return not holds(state.issuer.live, kid) and state.issuer.signing != kid


def _listed(node: Node, index: int) -> Node:
    return node._replace(listed=node.listed | (1 << index if node.record != ABSENT else 0))


def _next_kid(etcd: Etcd) -> int:
    """No key id is ever used again."""
    return 1 + max(kid for kid, removed in enumerate(etcd.removed) if removed or holds(etcd.keys, kid))


def prepare(state: State, world: World) -> Steps:
    """One commit: the key, PREPARED, and the barrier.

    Code: authsvc/keys/transactions.py _prepare; authsvc/keys/rotator.py Rotator._carry_out.
    """
    etcd = state.etcd
    for index, leader in enumerate(state.leaders):
        if leader.stage != "prepare":
            continue
        done = leader._replace(stage="", signing=0, barrier=0, key=0)
        kid = _next_kid(etcd)
        unchanged = (etcd.signing, etcd.barriers[ROTATION], etcd.prepared) == (leader.signing, leader.barrier, 0)
        if kid > world.keys or not (
            _may_write(state, leader, index, world) and (unchanged or not world.rules.compares)
        ):
            yield f"leader {name(index)} cannot prepare a key: something has changed", _with(state, index, done)
            continue
        after = commit(etcd, ("key", kid), ("barrier", ROTATION))
        after = after._replace(
            keys=etcd.keys | 1 << kid,
            prepared=kid,
            barriers=(len(after.log), etcd.barriers[1]),
            request=False,
            trespass=etcd.trespass or _is_deposed(etcd, leader),
        )
        yield (
            f"leader {name(index)} prepares key {kid} and raises its barrier: revision {len(after.log)}",
            _with(state._replace(etcd=after), index, done),
        )


def look_at_acks(state: State, world: World) -> Steps:
    """The leader reads who has acknowledged the barrier.

    Code: authsvc/coordination/barriers.py waits_for.
    """
    for index, leader in enumerate(state.leaders):
        if leader.stage != "acks":
            continue
        bit = 1 << index
        nodes = tuple(
            node._replace(heard=node.heard | bit if _counts(node, leader, world) else node.heard & ~bit)
            for node in state.nodes
        )
        text = ", ".join(name(number) for number, node in enumerate(nodes) if node.heard & bit) or "nobody"
        yield (
            f"leader {name(index)} reads the acknowledgements: {text}",
            _with(state._replace(nodes=nodes), index, leader._replace(stage="nodes")),
        )


def _counts(node: Node, leader: Leader, world: World) -> bool:
    ack = node.acks[ROTATION]
    return ack >= leader.barrier if world.rules.acks_name_revisions else ack > 0


def look_at_nodes(state: State, world: World) -> Steps:
    """The leader reads the nodes. If one of them has not acknowledged, it waits and looks again later.

    Code: authsvc/coordination/barriers.py waits_for.
    """
    for index, leader in enumerate(state.leaders):
        if leader.stage != "nodes":
            continue
        bit = 1 << index
        waiting = [
            name(number)
            for number, node in enumerate(state.nodes)
            if not node.heard & bit
            and (node.record != ABSENT if world.rules.nodes_after_raise else bool(node.listed & bit))
        ]
        clean = state._replace(nodes=tuple(node._replace(heard=node.heard & ~bit) for node in state.nodes))
        if waiting:
            text = f"leader {name(index)} reads the nodes, and waits for {', '.join(waiting)}"
            yield text, _with(clean, index, leader._replace(stage="", signing=0, barrier=0, key=0))
        else:
            text = f"leader {name(index)} reads the nodes: all have acknowledged"
            yield text, _with(clean, index, leader._replace(stage="activate"))


def activate(state: State, world: World) -> Steps:
    """One commit: the key signs, its predecessor retires, the barrier goes.

    Code: authsvc/keys/transactions.py _activate; authsvc/keys/rotator.py Rotator._carry_out.
    """
    etcd = state.etcd
    for index, leader in enumerate(state.leaders):
        if leader.stage != "activate":
            continue
        done = leader._replace(stage="", signing=0, barrier=0, key=0)
        seen = (leader.signing, leader.barrier, leader.key)
        unchanged = (etcd.signing, etcd.barriers[ROTATION], etcd.prepared) == seen
        if not (_may_write(state, leader, index, world) and (unchanged or not world.rules.compares)):
            yield (
                f"leader {name(index)} cannot activate key {leader.key}: something has changed",
                _with(state, index, done),
            )
            continue
        after = commit(etcd)._replace(
            signing=leader.key,
            prepared=0 if etcd.prepared == leader.key else etcd.prepared,
            barriers=(0, etcd.barriers[1]),
            trespass=etcd.trespass or _is_deposed(etcd, leader),
        )
        nodes = tuple(node._replace(acks=(0, node.acks[1])) for node in state.nodes)
        yield (
            f"leader {name(index)} activates key {leader.key}",
            _with(state._replace(etcd=after, nodes=nodes), index, done),
        )


def remove(state: State, world: World) -> Steps:
    """A retired key goes when its time has come.

    Code: authsvc/keys/transactions.py change; authsvc/keys/rotation.py Remove.
    """
    etcd = state.etcd
    for index, leader in enumerate(state.leaders):
        if leader.stage != "remove":
            continue
        done = leader._replace(stage="", signing=0, barrier=0, key=0)
        unchanged = etcd.signing == leader.signing and holds(etcd.keys, leader.key)
        if not (_may_write(state, leader, index, world) and (unchanged or not world.rules.compares)):
            yield (
                f"leader {name(index)} cannot remove key {leader.key}: something has changed",
                _with(state, index, done),
            )
            continue
        after = _without(etcd, leader.key)
        after = after._replace(trespass=etcd.trespass or _is_deposed(etcd, leader))
        yield f"leader {name(index)} removes key {leader.key}", _with(state._replace(etcd=after), index, done)


@fault
def revoke_key(state: State, world: World) -> Steps:
    """A key is revoked, by any replica, in one commit that compares what it read.

    One step: a commit that finds something changed changes nothing, and is tried again.

    Code: authsvc/keys/revoker.py KeyRevoker.revoke.
    """
    etcd, left = state.etcd, state.left
    if not left.revocations:
        return
    for kid in range(1, world.keys + 1):
        if not holds(etcd.keys, kid):
            continue
        after, nodes = _without(etcd, kid), state.nodes
        if kid == etcd.signing:
            after = after._replace(signing=0, request=True)
        if kid == etcd.prepared:
            after = after._replace(prepared=0, barriers=(0, etcd.barriers[1]), request=True)
            nodes = tuple(node._replace(acks=(0, node.acks[1])) for node in nodes)
        issuer = state.issuer._replace(live=state.issuer.live & ~(1 << kid))
        yield (
            f"key {kid} is revoked: revision {len(after.log)}",
            state._replace(
                etcd=after, nodes=nodes, issuer=issuer, left=left._replace(revocations=left.revocations - 1)
            ),
        )


def _without(etcd: Etcd, kid: int) -> Etcd:
    after = commit(etcd, ("gone", kid))
    removed = tuple(len(after.log) if number == kid else at for number, at in enumerate(etcd.removed))
    return after._replace(keys=etcd.keys & ~(1 << kid), removed=removed)


def sign_token(state: State, world: World) -> Steps:
    """A token is signed with the key that the signing record named a moment ago, and handed out.

    As client credentials are, which compare nothing; logins and refreshes can only do less.

    Code: authsvc/sessions/issuer.py Issuer.sign.
    """
    issuer, etcd = state.issuer, state.etcd
    if issuer.signing:
        revoked = etcd.removed[issuer.signing] > 0
        live = issuer.live | (0 if revoked else 1 << issuer.signing)
        text = "; it was revoked meanwhile" if revoked else ""
        yield (
            f"a token signed by key {issuer.signing} is handed out{text}",
            state._replace(issuer=issuer._replace(signing=0, live=live)),
        )
    elif etcd.signing and not holds(issuer.live, etcd.signing):
        yield (
            f"a replica reads that key {etcd.signing} signs",
            state._replace(issuer=issuer._replace(signing=etcd.signing)),
        )


def expire_tokens(state: State, world: World) -> Steps:
    """All tokens of a key that does not sign any more have expired."""
    for kid in range(1, world.keys + 1):
        if holds(state.issuer.live, kid) and kid != state.etcd.signing and state.issuer.signing != kid:
            issuer = state.issuer._replace(live=state.issuer.live & ~(1 << kid))
            yield f"the last token of key {kid} expires", state._replace(issuer=issuer)


def _is_deposed(etcd: Etcd, leader: Leader) -> bool:
    return etcd.leader == NOBODY or leader.fence != etcd.term


def _may_write(state: State, leader: Leader, index: int, world: World) -> bool:
    """The fence: the leader's key is as it was when this term began (interceptors/etcd/client.py, CreatedAt)."""
    etcd = state.etcd
    return not world.rules.fenced or (etcd.leader == index and etcd.term == leader.fence)


def _with(state: State, index: int, leader: Leader) -> State:
    leaders = state.leaders
    return state._replace(leaders=(*leaders[:index], leader, *leaders[index + 1 :]))
