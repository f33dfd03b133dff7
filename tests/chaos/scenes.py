"""Scenes: fixed plans, each with the shape of its world, that the tests run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.checker import Verdict, check
from chaos.operation_log import Record, read_operation_log
from chaos.plan import SETTLE_SECONDS, Calm, Plan, Planned
from chaos.run import Progress, run_plan
from chaos.system.world import Shape

__all__ = [
    "ETCD_AWAY_MUTATIONS",
    "LOSING_MUTATIONS",
    "MUTATIONS_WITHOUT_FAULTS",
    "NO_MUTATIONS",
    "STALE_STREAM_MUTATION",
    "Scene",
    "SceneResult",
]

_MAX_ATTEMPTS = 4
_MEMBERS = ("etcd-1", "etcd-2", "etcd-3")


@dataclass(frozen=True)
class SceneResult:
    """The result of a scene: its progress, its operation log, and the checker's verdicts."""

    progress: Progress
    history: Sequence[Record]
    verdicts: Mapping[str, Verdict]


@dataclass(frozen=True)
class Scene:
    """A plan, and the shape of its world."""

    shape: Shape
    plan: Plan

    def run_until(
        self, folder: Path, find_mutations: Callable[[SceneResult], Mapping[str, bool]]
    ) -> Iterator[SceneResult]:
        """Runs the scene until each of its mutations was found. AssertionError names the others, after some attempts.

        On a busy machine, not every mutation affects a call in the few seconds that a scene lasts.
        """
        missing: set[str] = set()
        for number in range(_MAX_ATTEMPTS):
            result = self.run(folder / str(number))
            yield result
            found = find_mutations(result)
            missing = {what for what in (missing or found) if not found[what]}
            if not missing:
                return
        raise AssertionError(f"not found in {_MAX_ATTEMPTS} runs: {', '.join(sorted(missing))}")

    def run(self, folder: Path) -> SceneResult:
        """Runs the scene, and checks its operation log."""
        progress = run_plan(self.plan, self.shape, folder)
        history = read_operation_log(folder / "operation_log")
        return SceneResult(progress, history, check(history))


def _cut(at: float, until: float, links: Sequence[tuple[str, str]], manner: str) -> Planned:
    return Planned(at, until, "cut", {"links": links, "manner": manner})


def _from_etcd(part: str) -> list[tuple[str, str]]:
    return [(part, member) for member in _MEMBERS]


NO_MUTATIONS = Scene(
    Shape(nodes=("sync", "aio", "aio"), token_lifetime=8.0),
    Plan(
        seed=1,
        seconds=10.2 + SETTLE_SECONDS,
        faults=(
            Planned(0.5, 5.5, "freeze", {"part": "node-1"}),
            Planned(0.8, 2.5, "kill", {"part": "etcd-2"}),
            _cut(1.0, 4.5, _from_etcd("node-2"), "silent"),
            Planned(2.0, 2.1, "depose", {}),
            Planned(2.8, 4.8, "compact", {"part": "node-3", "links": _from_etcd("node-3")}),
            Planned(3.0, 6.0, "clock", {"part": "auth-2", "ahead": 300}),
            Planned(3.5, 5.0, "kill", {"part": "auth-1"}),
            Planned(5.2, 5.3, "move", {"to": "etcd-1"}),
            Planned(5.0, 7.0, "slow", {"links": _from_etcd("auth-2"), "delay": 0.1, "loss": 0.1, "back_only": False}),
            Planned(5.6, 7.0, "kill", {"part": "node-3"}),
        ),
        calms=(Calm(7.2, 7.2 + SETTLE_SECONDS, 10.2 + SETTLE_SECONDS),),
    ),
)
"""The product without mutations, under many faults."""

MUTATIONS_WITHOUT_FAULTS = Scene(
    Shape(
        nodes=("aio", "sync"),
        users=16,
        programs=8,
        # Short, because most of these mutations show in refreshes.
        token_lifetime=4.0,
        refresh_grace=1.0,
        mutations={
            "node-1": ("epoch-ignored",),
            "node-2": ("ack-before-applying",),
            "auth-1": ("signing-before-the-barrier", "refresh-without-compare"),
            "auth-2": ("signing-before-the-barrier", "token-across-a-revocation"),
        },
    ),
    Plan(seed=2, seconds=10.0, faults=(), calms=()),
)
"""Mutations that show without a fault."""

LOSING_MUTATIONS = Scene(
    Shape(
        nodes=("aio", "sync"),
        users=16,
        programs=8,
        refresh_grace=0.5,
        key_revocation_share=0.6,
        reuse_weight=40,
        mutations={
            "node-1": ("removed-key-still-accepted",),
            "auth-1": ("reuse-is-forgiven", "receipt-forgets-a-node"),
            "auth-2": ("reuse-is-forgiven", "revoked-in-memory"),
        },
    ),
    Plan(seed=4, seconds=10.0, faults=(), calms=()),
)
"""Mutations that lose something: a node of a receipt, the revocation of a key, the use of a token, a revocation."""

ETCD_AWAY_MUTATIONS = Scene(
    Shape(
        users=8,
        token_lifetime=4.0,
        leeway=1.0,
        node_lease=30,
        operators_not_waiting=10,
        rotates=False,
        # No revocations of everyone: a credential that is refused as revoked tells nothing about its expiry.
        wide_share=0.0,
        lingering_share=0.3,
        mutations={
            "node-1": ("freshness-after-the-read", "any-audience", "expired-is-fine", "streams-outlive-tokens"),
            "node-2": ("freshness-after-the-read", "stale-for-everybody"),
            "node-3": ("freshness-after-the-read",),
            "node-4": ("freshness-after-the-read",),
        },
    ),
    Plan(
        seed=3,
        seconds=15.0,
        faults=(
            # The last proof before a cut counts too long. How much too long depends on the moment of the cut.
            _cut(2.0, 6.6, _from_etcd("node-1"), "silent"),
            _cut(2.3, 6.9, _from_etcd("node-2"), "silent"),
            _cut(2.7, 7.3, _from_etcd("node-3"), "silent"),
            _cut(3.1, 7.7, _from_etcd("node-4"), "silent"),
            _cut(8.0, 12.6, _from_etcd("node-1"), "silent"),
            _cut(8.3, 12.9, _from_etcd("node-2"), "silent"),
            _cut(8.7, 13.3, _from_etcd("node-3"), "silent"),
            _cut(9.1, 13.7, _from_etcd("node-4"), "silent"),
        ),
        calms=(),
    ),
)
"""Mutations that show while etcd is unreachable."""

STALE_STREAM_MUTATION = Scene(
    Shape(
        nodes=("aio", "sync"),
        users=16,
        operators_not_waiting=10,
        rotates=False,
        # Many revocations of everyone, so that holders of open streams are revoked.
        wide_share=0.05,
        stream_weight=60,
        mutations={"node-1": ("strict-streams-go-on",), "node-2": ("strict-streams-go-on",)},
    ),
    Plan(
        seed=5,
        seconds=13.0,
        faults=(
            _cut(4.0, 11.0, _from_etcd("node-1"), "silent"),
            _cut(5.0, 12.0, _from_etcd("node-2"), "silent"),
        ),
        calms=(),
    ),
)
"""A mutation that shows in open streams while etcd is unreachable for long."""
