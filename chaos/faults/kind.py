"""What a kind of fault is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from chaos.system.world import World

__all__ = ["Choices", "Kind", "Names", "links", "process"]

Choices = dict[str, Any]
"""What was drawn for one fault, as JSON takes it: enough to do it again."""


@dataclass(frozen=True, slots=True)
class Names:
    """The parts that there are, for drawing."""

    etcds: tuple[str, ...]
    auths: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """All processes."""
        return (*self.etcds, *self.auths, *self.nodes)

    @property
    def ours(self) -> tuple[str, ...]:
        """Those that run our code."""
        return (*self.auths, *self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault.

    weight  how often it is drawn, compared to the others
    lasts   seconds from its beginning to its end: the least and the most
    draw    chooses whom it befalls, and how
    claims  what no other fault may touch meanwhile
    begin   does it; what it did, for people
    end     undoes it

    `begin` and `end` may raise grpc.RpcError: on a bad day an operator's command fails too. A beginning that failed is
    let go, an end is tried again.
    """

    name: str
    weight: int
    lasts: tuple[float, float]
    draw: Callable[[random.Random, Names], Choices]
    claims: Callable[[Choices, Names], Iterable[str]]
    begin: Callable[[World, Choices], str]
    end: Callable[[World, Choices], None]


def process(name: str) -> str:
    """The claim on a process."""
    return f"process {name}"


def links(pairs: Iterable[Iterable[str]]) -> set[str]:
    """The claims on links, whichever way."""
    return {"link " + " ".join(sorted(pair)) for pair in pairs}
