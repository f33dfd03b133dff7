"""The steps of the protocol. Each action yields every way in which it can happen in a state: what to say, and the state
after it.

An action is a step that is one as well in the code: a transaction of etcd, the processing of one answer, or one look of
a thread at what another thread changes. Between any two of them anything else may happen. A process that is paused,
slow or cut off is one whose next step does not come, so that needs no action of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from model.state import Etcd, Node, State

if TYPE_CHECKING:
    from model.worlds import World

__all__ = ["Action", "Steps", "commit", "fault", "faulty", "is_fault", "name", "with_node"]

Steps = Iterator[tuple[str, State]]
Action = Callable[[State, "World"], Steps]

A = TypeVar("A", bound=Action)

_faults: set[Action] = set()


def fault(action: A) -> A:
    """Marks an action as a fault: nothing may rely on its ever happening."""
    _faults.add(action)
    return action


def is_fault(action: Action) -> bool:
    """Whether an action is a fault."""
    return action in _faults


def name(index: int) -> str:
    """What a node or a replica is called in a trace."""
    return "ABCDEFGH"[index]


def faulty(state: State) -> State:
    """The state with one fault less to come."""
    return state._replace(left=state.left._replace(faults=state.left.faults - 1))


def with_node(state: State, index: int, node: Node) -> State:
    """The state with one node changed."""
    nodes = state.nodes
    return state._replace(nodes=(*nodes[:index], node, *nodes[index + 1 :]))


def commit(etcd: Etcd, *changes: tuple[str, int], beacon: bool = True) -> Etcd:
    """Etcd after one more commit below mesh/; it puts the beacon too."""
    log = (*etcd.log, changes)
    return etcd._replace(log=log, beacon=len(log) if beacon else etcd.beacon)
