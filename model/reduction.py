"""Reducing states: one representative for all equivalent states.

Nodes are interchangeable, and so are replicas and requests in progress, so they are sorted (symmetry reduction). Parts
that cannot matter any more are dropped. Equal parts are stored once (hash-consing), so that comparing two of them means
comparing addresses.
"""

from __future__ import annotations

from typing import TypeVar

from model.state import NO_LEADER, READY, Leader, State
from model.world import World

__all__ = ["StateReducer"]

T = TypeVar("T")


class StateReducer:
    """A callable that returns a state's representative."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._fixed_nodes = 1 if world.timed else 0  # how many of the first nodes are not interchangeable
        self._rotates = not world.timed and bool(world.keys)
        self._parts: dict[object, object] = {}

    def __call__(self, state: State) -> State:
        if self._rotates:
            state = _sort_leaders(_drop_irrelevant(state, self._world))
        intern, issuance = self._intern, state.issuance
        nodes = tuple([intern(node) for node in state.nodes])
        if len(nodes) > 1 + self._fixed_nodes:
            nodes = (*nodes[: self._fixed_nodes], *sorted(nodes[self._fixed_nodes :]))
        if len(issuance.requests) > 1:
            issuance = issuance._replace(requests=tuple(sorted(issuance.requests)))
        return State(
            intern(state.etcd),
            nodes,
            state.receipt,
            state.leaders,
            state.signer,
            intern(issuance),
            state.budget,
            state.continuity,
        )

    def _intern(self, part: T) -> T:
        return self._parts.setdefault(part, part)  # type: ignore[return-value]


def _drop_irrelevant(state: State, world: World) -> State:
    """Drops commits that all nodes have applied, pending acknowledgements of removed barriers, and the revisions of
    registrations that the node has caught up with.

    Only for worlds without ticks: there such acknowledgements have no effect.
    """
    etcd, nodes = state.etcd, state.nodes
    applied = min([node.revision for node in nodes if node.phase == READY], default=len(etcd.log))
    if any(etcd.log[:applied]):
        etcd = etcd._replace(log=((),) * applied + etcd.log[applied:])
    reduced = []
    for node in nodes:
        registration_revision = 0 if node.revision >= node.registration_revision > 0 else node.registration_revision
        pending_acks = node.pending_acks
        if pending_acks and world.rules.acks_compare_barrier:
            pending_acks = tuple([one for one in pending_acks if one[1] == etcd.barriers[one[0]]])
        reduced.append(
            node
            if registration_revision == node.registration_revision and pending_acks == node.pending_acks
            else node._replace(registration_revision=registration_revision, pending_acks=pending_acks)
        )
    leaders = state.leaders
    if world.rules.fenced:
        # A leader that was deposed between two jobs can read as often as it likes, and commit nothing.
        leaders = tuple(
            [
                Leader()
                if leader.fence and not leader.stage and (index, leader.fence) != (etcd.leader, etcd.term)
                else leader
                for index, leader in enumerate(leaders)
            ]
        )
    return state._replace(etcd=etcd, nodes=tuple(reduced), leaders=leaders)


def _sort_leaders(state: State) -> State:
    """Sorts the two replicas, and swaps their numbers in the other parts of the state accordingly."""
    if len(state.leaders) != 2:
        return state
    one, other = state.leaders
    if (one, state.etcd.leader != 0) <= (other, state.etcd.leader != 1):
        return state
    nodes = tuple(
        [
            node._replace(counted_by=_swap_bits(node.counted_by), listed_by=_swap_bits(node.listed_by))
            for node in state.nodes
        ]
    )
    leader = state.etcd.leader if state.etcd.leader == NO_LEADER else 1 - state.etcd.leader
    return state._replace(leaders=(other, one), nodes=nodes, etcd=state.etcd._replace(leader=leader))


def _swap_bits(bits: int) -> int:
    return (bits & 1) << 1 | bits >> 1 & 1
