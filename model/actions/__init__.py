"""The steps of the protocol. An action yields every way in which its step can happen in a state: a description, and the
state after it.

An action is as small as a step of the code: one transaction of etcd, the processing of one answer, or one read by a
thread of what another thread changes. Anything else can happen between two steps. A process that is paused, slow or cut
off is one whose next step does not come, so no action is needed for that.
"""

from __future__ import annotations

from typing import TypeVar

from model.state import Etcd, Node, State
from model.world import Action

__all__ = ["commit", "fault", "faulty", "is_fault", "name", "with_node"]

A = TypeVar("A", bound=Action)

_faults: set[Action] = set()


def fault(action: A) -> A:
    """Marks an action as a fault: no progress may depend on it."""
    _faults.add(action)
    return action


def is_fault(action: Action) -> bool:
    """Whether an action is a fault."""
    return action in _faults


def name(index: int) -> str:
    """The name of a node or a replica in a trace."""
    return "ABCDEFGH"[index]


def faulty(state: State) -> State:
    """Returns the state with one fault less in its budget."""
    return state._replace(budget=state.budget._replace(faults=state.budget.faults - 1))


def with_node(state: State, index: int, node: Node) -> State:
    """Returns the state with one node replaced."""
    nodes = state.nodes
    return state._replace(nodes=(*nodes[:index], node, *nodes[index + 1 :]))


def commit(etcd: Etcd, *changes: tuple[str, int], beacon: bool = True) -> Etcd:
    """Returns etcd after one more commit below mesh/, which puts the beacon, too."""
    log = (*etcd.log, changes)
    return etcd._replace(log=log, beacon=len(log) if beacon else etcd.beacon)
