"""Breadth first through all states that a world can be in, for the shortest way to a broken promise.

What is remembered of a state is where it came from. When its way is to be told, it is walked again, with the nodes'
names in place.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from model.actions import is_fault
from model.small import Small
from model.state import State
from model.worlds import World

__all__ = ["Found", "explore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search has found.

    states, steps  how many were looked at: all of them, unless a promise is broken
    depth          the longest of the shortest ways to a state, in steps
    seconds        CPU seconds
    broken         which promise is broken, and how; None if none is
    trace          the steps of the shortest way there
    """

    states: int
    steps: int
    depth: int
    seconds: float
    broken: str | None = None
    trace: tuple[str, ...] = ()

    def told(self) -> str:
        """The way to the broken promise, to be read."""
        lines = [f"{number:3}. {text}" for number, text in enumerate(self.trace, 1)]
        return "\n".join([*lines, f"  => {self.broken}"])


def explore(world: World) -> Found:
    """Looks at every state of a world, up to the first that breaks a promise."""
    collecting = gc.isenabled()
    gc.disable()  # millions of tuples and no cycles: looking for those takes a third of the time
    try:
        return _Search(world).run()
    finally:
        if collecting:
            gc.enable()


class _Search:
    def __init__(self, world: World) -> None:
        self._world = world
        self._small = Small(world)
        self._came_from: dict[State, State | None] = {}
        self._backwards: dict[State, list[State]] = {}
        self._steps = 0
        self._depth = 0

    def run(self) -> Found:
        began = time.process_time()
        broken, end = self._all()
        return Found(
            states=len(self._came_from),
            steps=self._steps,
            depth=self._depth,
            seconds=time.process_time() - began,
            broken=broken,
            trace=() if end is None else tuple(self._walk(end)),
        )

    def _all(self) -> tuple[str | None, State | None]:
        """What is broken, and where."""
        world, small, came_from = self._world, self._small, self._came_from
        level: list[State] = []
        for first in world.beginnings:
            one = small(first)
            if one not in came_from:
                came_from[one] = None
                level.append(one)
        actions = [(action, world.goal is not None and not is_fault(action)) for action in world.actions]
        while level:
            following: list[State] = []
            for state in level:
                broken = next(filter(None, (invariant(state, world) for invariant in world.invariants)), None)
                if broken is not None:
                    return broken, state
                if world.over is not None and world.over(state):
                    continue
                for action, progress in actions:
                    for _, after in action(state, world):
                        self._steps += 1
                        one = small(after)
                        if one not in came_from:
                            came_from[one] = state
                            following.append(one)
                        if progress:
                            self._backwards.setdefault(one, []).append(state)
            level = following
            self._depth += bool(level)
        return self._stuck()

    def _stuck(self) -> tuple[str | None, State | None]:
        """The first state from which the goal cannot be reached any more unless something happens that need not."""
        world = self._world
        if world.goal is None:
            return None, None
        reached = {state for state in self._came_from if world.goal(state, world) is None}
        queue = deque(reached)
        while queue:
            for before in self._backwards.get(queue.popleft(), ()):
                if before not in reached:
                    reached.add(before)
                    queue.append(before)
        stuck = next((state for state in self._came_from if state not in reached), None)
        return (None, None) if stuck is None else (world.goal(stuck, world), stuck)

    def _walk(self, end: State) -> Iterator[str]:
        """The steps from the beginning to a state, told with one name for each node from first to last."""
        small = self._small
        path = [end]
        while (before := self._came_from[path[-1]]) is not None:
            path.append(before)
        path.reverse()
        state = next(first for first in self._world.beginnings if small(first) == path[0])
        for following in path[1:]:
            text, state = next(
                (text, after)
                for action in self._world.actions
                for text, after in action(state, self._world)
                if small(after) == following
            )
            yield text
