"""A kind of fault: how it is drawn, begun and ended."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from chaos.system.world import World

__all__ = ["Choices", "Kind", "Names", "links", "process"]

Choices = dict[str, Any]
"""The random choices for one fault, as JSON values; they suffice to repeat it."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the parts that faults are drawn from."""

    etcds: tuple[str, ...]
    auths: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """All processes."""
        return (*self.etcds, *self.auths, *self.nodes)

    @property
    def ours(self) -> tuple[str, ...]:
        """The processes that run credmesh."""
        return (*self.auths, *self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault.

    weight  how often it is drawn, relative to the other kinds
    lasts   seconds from its beginning to its end: the least and the most
    draw    chooses the affected parts, and the manner
    claims  the resources that no other fault may affect at the same time
    begin   begins it, and returns a description
    end     ends it

    `begin` and `end` can raise grpc.RpcError, because an operator's command fails, too, during other faults. A fault
    that failed to begin is skipped; ending it is retried.
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
    """The claims on links, regardless of their direction."""
    return {"link " + " ".join(sorted(pair)) for pair in pairs}
