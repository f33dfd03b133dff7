"""A world: the parts that a search looks at, how large they are, and how many faults can happen.

The types that actions, invariants and worlds share: `World`, `Action`, `Steps` and `Invariant`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from model.rules import AS_BUILT, Rules
from model.state import State

__all__ = ["Action", "Invariant", "Steps", "World"]

Steps = Iterator[tuple[str, State]]
"""Every way in which an action can happen in a state: its description, and the state after it."""

Action = Callable[[State, "World"], Steps]
"""A step of the protocol, an environment's step, or a fault."""

Invariant = Callable[[State, "World"], str | None]
"""A promise. Returns what is broken in a state, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a search explores.

    bounds       the world's size, in words
    beginnings   the states in which it can begin
    finished     None, or a condition on states from which no promise can be broken any more: the search stops there
    goal         None, or a condition that must stay reachable from every state without the help of a fault
    freshness    ticks; the longest freshness that a strict method names
    lease        ticks that a node's lease lasts after a renewal
    patience     ticks that can pass at most between two steps of one call
    timed        whether time passes in ticks; otherwise each expiry of a lease uses up one fault of the budget
    small_steps  whether applying a commit and checking a call are split into single memory accesses
    early_calls  whether calls that begin before the receipt are explored too, because of what they leave in the cache
    keys         the highest key id that is ever made
    first_keys   the keys at the beginning, as bits
    """

    name: str
    bounds: str
    beginnings: tuple[State, ...]
    actions: tuple[Action, ...]
    invariants: tuple[Invariant, ...]
    goal: Invariant | None = None
    finished: Callable[[State], bool] | None = None
    rules: Rules = AS_BUILT
    freshness: int = 1
    lease: int = 1
    patience: int = 1
    timed: bool = False
    small_steps: bool = False
    early_calls: bool = False
    keys: int = 0
    first_keys: int = 0

    @property
    def never(self) -> int:
        """An age of a proof that is above every rule's freshness."""
        return self.freshness + self.patience + 1

    def under(self, rules: Rules) -> World:
        """Returns the same world with another protocol."""
        beginnings = self.beginnings
        if not rules.epochs_are_applied:
            beginnings = tuple(
                state._replace(nodes=(state.nodes[0]._replace(ignores_epochs=True), *state.nodes[1:]))
                for state in beginnings
            )
        return replace(self, rules=rules, beginnings=beginnings)
