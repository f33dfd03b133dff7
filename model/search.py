"""Breadth-first search through all states of a world, for the shortest path to a broken promise.

The search stores each state's predecessor. To describe a path, it replays its actions from the beginning, so that
each node has the same name all along.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from model.actions import is_fault
from model.reduction import StateReducer
from model.state import State
from model.world import World

__all__ = ["SearchResult", "explore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The result of a search.

    states, steps  how many were explored: all of them, unless a promise is broken
    depth          the length of the longest shortest path to a state, in steps
    seconds        CPU seconds
    broken         the promise that is broken, and how; None if all are kept
    trace          the steps of the shortest path to the broken promise
    """

    states: int
    steps: int
    depth: int
    seconds: float
    broken: str | None = None
    trace: tuple[str, ...] = ()

    def described(self) -> str:
        """The path to the broken promise, one numbered line for each step."""
        lines = [f"{number:3}. {text}" for number, text in enumerate(self.trace, 1)]
        return "\n".join([*lines, f"  => {self.broken}"])


def explore(world: World) -> SearchResult:
    """Explores every state of a world, up to the first that breaks a promise."""
    collecting = gc.isenabled()
    gc.disable()  # millions of tuples and no cycles: the garbage collector would take a third of the time
    try:
        return _Search(world).run()
    finally:
        if collecting:
            gc.enable()


class _Search:
    def __init__(self, world: World) -> None:
        self._world = world
        self._reduce = StateReducer(world)
        self._came_from: dict[State, State | None] = {}
        self._predecessors: dict[State, list[State]] = {}
        self._steps = 0
        self._depth = 0

    def run(self) -> SearchResult:
        began = time.process_time()
        broken, end = self._explore()
        return SearchResult(
            states=len(self._came_from),
            steps=self._steps,
            depth=self._depth,
            seconds=time.process_time() - began,
            broken=broken,
            trace=() if end is None else tuple(self._describe_path(end)),
        )

    def _explore(self) -> tuple[str | None, State | None]:
        """Explores all states. Returns what is broken, and in which state."""
        world, reduce, came_from = self._world, self._reduce, self._came_from
        level: list[State] = []
        for first in world.beginnings:
            reduced = reduce(first)
            if reduced not in came_from:
                came_from[reduced] = None
                level.append(reduced)
        actions = [(action, world.goal is not None and not is_fault(action)) for action in world.actions]
        while level:
            following: list[State] = []
            for state in level:
                broken = next(filter(None, (invariant(state, world) for invariant in world.invariants)), None)
                if broken is not None:
                    return broken, state
                if world.finished is not None and world.finished(state):
                    continue
                for action, progress in actions:
                    for _, after in action(state, world):
                        self._steps += 1
                        reduced = reduce(after)
                        if reduced not in came_from:
                            came_from[reduced] = state
                            following.append(reduced)
                        if progress:
                            self._predecessors.setdefault(reduced, []).append(state)
            level = following
            self._depth += bool(level)
        return self._find_stuck_state()

    def _find_stuck_state(self) -> tuple[str | None, State | None]:
        """Returns the first state from which the goal cannot be reached without a fault."""
        world = self._world
        if world.goal is None:
            return None, None
        reached = {state for state in self._came_from if world.goal(state, world) is None}
        queue = deque(reached)
        while queue:
            for before in self._predecessors.get(queue.popleft(), ()):
                if before not in reached:
                    reached.add(before)
                    queue.append(before)
        stuck = next((state for state in self._came_from if state not in reached), None)
        return (None, None) if stuck is None else (world.goal(stuck, world), stuck)

    def _describe_path(self, end: State) -> Iterator[str]:
        """Yields the steps from the beginning to a state, with the same name for each node in every step."""
        reduce = self._reduce
        path = [end]
        while (before := self._came_from[path[-1]]) is not None:
            path.append(before)
        path.reverse()
        state = next(first for first in self._world.beginnings if reduce(first) == path[0])
        for following in path[1:]:
            text, state = next(
                (text, after)
                for action in self._world.actions
                for text, after in action(state, self._world)
                if reduce(after) == following
            )
            yield text
