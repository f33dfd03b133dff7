"""Making states small: one representative for all states that mean the same.

Nodes are interchangeable, and so are replicas and requests at work, so they are sorted (symmetry reduction). What
cannot matter any more is left out. Equal parts are kept once (hash-consing): comparing them is comparing addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from model.state import NOBODY, READY, Leader, State

if TYPE_CHECKING:
    from model.worlds import World

__all__ = ["Small"]

T = TypeVar("T")


class Small:
    """Called with a state, gives its representative."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._watched = 1 if world.timed else 0  # how many nodes, the first ones, are not like the others
        self._rotates = not world.timed and bool(world.keys)
        self._parts: dict[object, object] = {}

    def __call__(self, state: State) -> State:
        if self._rotates:
            state = _first_leader_first(_without_the_past(state, self._world))
        keep, desk = self._keep, state.desk
        nodes = tuple([keep(node) for node in state.nodes])
        if len(nodes) > 1 + self._watched:
            nodes = (*nodes[: self._watched], *sorted(nodes[self._watched :]))
        if len(desk.workers) > 1:
            desk = desk._replace(workers=tuple(sorted(desk.workers)))
        return State(
            keep(state.etcd), nodes, state.receipt, state.leaders, state.issuer, keep(desk), state.left, state.past
        )

    def _keep(self, part: T) -> T:
        return self._parts.setdefault(part, part)  # type: ignore[return-value]


def _without_the_past(state: State, world: World) -> State:
    """Without commits that all nodes have applied, answers to barriers that are gone, and registrations caught up with.

    Only where there is no time: there such answers come to nothing, in any case.
    """
    etcd, nodes = state.etcd, state.nodes
    applied = min([node.revision for node in nodes if node.phase == READY], default=len(etcd.log))
    if any(etcd.log[:applied]):
        etcd = etcd._replace(log=((),) * applied + etcd.log[applied:])
    kept = []
    for node in nodes:
        since = 0 if node.revision >= node.since > 0 else node.since
        queue = node.queue
        if queue and world.rules.acks_compare_barrier:
            queue = tuple([one for one in queue if one[1] == etcd.barriers[one[0]]])
        kept.append(node if since == node.since and queue == node.queue else node._replace(since=since, queue=queue))
    leaders = state.leaders
    if world.rules.fenced:
        # Whoever was deposed while it did nothing can look as often as it likes, and write nothing.
        leaders = tuple(
            [
                Leader()
                if leader.fence and not leader.stage and (index, leader.fence) != (etcd.leader, etcd.term)
                else leader
                for index, leader in enumerate(leaders)
            ]
        )
    return state._replace(etcd=etcd, nodes=tuple(kept), leaders=leaders)


def _first_leader_first(state: State) -> State:
    """With the two replicas in one order, and what is kept of them elsewhere by their number."""
    if len(state.leaders) != 2:
        return state
    one, other = state.leaders
    if (one, state.etcd.leader != 0) <= (other, state.etcd.leader != 1):
        return state
    nodes = tuple([node._replace(heard=_swapped(node.heard), listed=_swapped(node.listed)) for node in state.nodes])
    leader = state.etcd.leader if state.etcd.leader == NOBODY else 1 - state.etcd.leader
    return state._replace(leaders=(other, one), nodes=nodes, etcd=state.etcd._replace(leader=leader))


def _swapped(bits: int) -> int:
    return (bits & 1) << 1 | bits >> 1 & 1
