"""The fixed plans that the tests play, and the worlds that they are played in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.checker import Verdict, check
from chaos.history import Record, read_history
from chaos.plan import SETTLE, Calm, Plan, Planned
from chaos.run import Progress, play
from chaos.system.world import Shape

__all__ = ["CARELESS", "FORGETFUL", "LATE", "LINGERING", "SOUND", "Scene", "Seen"]

_TRIES = 4
_MEMBERS = ("etcd-1", "etcd-2", "etcd-3")


@dataclass(frozen=True)
class Seen:
    """What came of a scene."""

    progress: Progress
    history: Sequence[Record]
    verdicts: Mapping[str, Verdict]


@dataclass(frozen=True)
class Scene:
    """A plan, and the world for it."""

    shape: Shape
    plan: Plan

    def play_until(self, folder: Path, shows: Callable[[Seen], Mapping[str, bool]]) -> Iterator[Seen]:
        """Plays it until everything was shown that was planted; AssertionError names what was not, after a few times.

        On a busy machine not every bug meets somebody whom it harms in the few seconds that a scene lasts.
        """
        missing: set[str] = set()
        for number in range(_TRIES):
            seen = self.play(folder / str(number))
            yield seen
            found = shows(seen)
            missing = {what for what in (missing or found) if not found[what]}
            if not missing:
                return
        raise AssertionError(f"never found: {', '.join(sorted(missing))}")

    def play(self, folder: Path) -> Seen:
        """Plays it, and has the checker decide."""
        progress = play(self.plan, self.shape, folder)
        history = read_history(folder / "history")
        return Seen(progress, history, check(history))


def _cut(at: float, until: float, links: Sequence[tuple[str, str]], manner: str) -> Planned:
    return Planned(at, until, "cut", {"links": links, "manner": manner})


def _from_etcd(part: str) -> list[tuple[str, str]]:
    return [(part, member) for member in _MEMBERS]


SOUND = Scene(
    Shape(nodes=("sync", "aio", "aio"), token_lifetime=8.0),
    Plan(
        seed=1,
        seconds=10.2 + SETTLE,
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
        calms=(Calm(7.2, 7.2 + SETTLE, 10.2 + SETTLE),),
    ),
)
"""A mesh as it is, on a bad day."""

CARELESS = Scene(
    Shape(
        nodes=("aio", "sync"),
        users=16,
        programs=8,
        # Short: refreshes are what most of these bugs show by.
        token_lifetime=4.0,
        refresh_grace=1.0,
        plant={
            "node-1": ("epoch-ignored",),
            "node-2": ("ack-before-applying",),
            "auth-1": ("signing-before-the-barrier", "refresh-without-compare"),
            "auth-2": ("signing-before-the-barrier", "token-across-a-revocation"),
        },
    ),
    Plan(seed=2, seconds=10.0, faults=(), calms=()),
)
"""Bugs that show on a day when nothing goes wrong."""

FORGETFUL = Scene(
    Shape(
        nodes=("aio", "sync"),
        users=16,
        programs=8,
        refresh_grace=0.5,
        forced=0.6,
        thieves=40,
        plant={
            "node-1": ("removed-key-still-accepted",),
            "auth-1": ("reuse-is-forgiven", "receipt-forgets-a-node"),
            "auth-2": ("reuse-is-forgiven", "revoked-in-memory"),
        },
    ),
    Plan(seed=4, seconds=10.0, faults=(), calms=()),
)
"""Bugs of those who forget: a node, a key, a use, a revocation."""

LATE = Scene(
    Shape(
        users=8,
        token_lifetime=4.0,
        leeway=1.0,
        node_lease=30,
        hasty=10,
        rotates=False,
        # What is refused for being revoked says nothing of its expiry.
        wide=0.0,
        lingering=0.3,
        plant={
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
            # What was read last was read a while before it counts: how long, depends on the moment of the cut.
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
"""Bugs that show when etcd is away."""

LINGERING = Scene(
    Shape(
        nodes=("aio", "sync"),
        users=16,
        hasty=10,
        rotates=False,
        # Of everybody: whoever holds a stream then is revoked.
        wide=0.05,
        watchers=60,
        plant={"node-1": ("strict-streams-go-on",), "node-2": ("strict-streams-go-on",)},
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
"""A bug that shows when etcd is away for long, and to whom holds a stream."""
