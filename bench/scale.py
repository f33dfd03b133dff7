"""How much is measured: `full` for figures to publish, `quick` to see a change, `smoke` to see that it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FULL", "QUICK", "SMOKE", "Scale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One size of the benchmark.

    servers        the kinds of server that are measured: False is grpc.server, True is grpc.aio.server
    rounds         the rounds of a comparison
    targeted       the rounds of a comparison that has a target
    seconds        the length of one round of one variant
    tokens         the number of different tokens in the variant with many tokens
    nodes          the numbers of nodes that revocations are measured with
    revocations    the revocations for each number of nodes
    receipts       the revocations with a receipt for each number of nodes
    streams        the open streams that one revocation ends
    rotations      the rotations under load
    concurrent     the calls at once in a wave of calls across a refresh
    waves          the number of such waves
    epochs         the numbers of live epochs that growth is measured with
    cached         the numbers of cached tokens that growth is measured with
    idle_seconds   how long idle nodes are observed
    starts         the starts of a node
    away_seconds   how long a starting node waits for its etcd
    mesh_starts    the starts of a whole local mesh
    """

    name: str
    servers: tuple[bool, ...]
    rounds: int
    targeted: int
    seconds: float
    tokens: int
    nodes: tuple[int, ...]
    revocations: int
    receipts: int
    streams: int
    rotations: int
    concurrent: int
    waves: int
    epochs: tuple[int, ...]
    cached: tuple[int, ...]
    idle_seconds: float
    starts: int
    away_seconds: float
    mesh_starts: int


FULL: Final = Scale(
    name="full",
    servers=(False, True),
    rounds=11,
    targeted=39,
    seconds=0.5,
    tokens=10_000,
    nodes=(1, 10, 50),
    revocations=320,
    receipts=160,
    streams=1000,
    rotations=100,
    concurrent=1000,
    waves=30,
    epochs=(1, 1_000, 100_000, 1_000_000),
    cached=(1, 1_000, 10_000, 100_000),
    idle_seconds=15.0,
    starts=7,
    away_seconds=7.0,
    mesh_starts=7,
)

QUICK: Final = Scale(
    name="quick",
    servers=(False, True),
    rounds=4,
    targeted=8,
    seconds=0.15,
    tokens=2_000,
    nodes=(1, 10),
    revocations=40,
    receipts=24,
    streams=200,
    rotations=5,
    concurrent=300,
    waves=4,
    epochs=(1, 20_000),
    cached=(1, 2_000),
    idle_seconds=3.0,
    starts=2,
    away_seconds=2.0,
    mesh_starts=1,
)

SMOKE: Final = Scale(
    name="smoke",
    servers=(True,),
    rounds=1,
    targeted=2,
    seconds=0.02,
    tokens=20,
    nodes=(2,),
    revocations=3,
    receipts=3,
    streams=5,
    rotations=1,
    concurrent=20,
    waves=2,
    epochs=(1, 200),
    cached=(1, 20),
    idle_seconds=0.5,
    starts=1,
    away_seconds=0.2,
    mesh_starts=0,
)
