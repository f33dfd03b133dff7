"""What all clients share: who holds what, what is dead, how fast to go."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from chaos.clients.administering import Administering
from chaos.clients.asking import Asking
from chaos.clients.credentials import Credential

__all__ = ["METHODS", "STREAMS", "Town", "Uses"]

METHODS: Final = ("Plain", "Strict")
STREAMS: Final = ("Stream", "StrictStream")
_MOST_DEAD: Final = 300
_MOST_OLD: Final = 400
_SPARED_USERS: Final = 2
_SPARED_PROGRAMS: Final = 4


@dataclass(frozen=True, slots=True)
class Uses:
    """Whoever does something here: its name, and its own dice, so that a seed gives it the same choices again."""

    name: str
    rng: random.Random


class Town:
    """The shared state of one event loop.

    live      credentials in use, by their holder's name
    dead      credentials that were revoked, to be tried again and again
    old       credentials that are about to expire, or have
    spared    who is never revoked alone, so that some credentials live as long as they may
    wide      the part of all revocations that are everybody's, or nearly
    forced    the part of all rotations that remove the key that signs instead
    thieves   how often a refresh token that was used long ago is shown, compared to what holders do besides
    watchers  how often a stream is opened, likewise
    lingering the part of all tries of old credentials that are streams, which last beyond their expiry
    """

    def __init__(self, asking: Asking, settings: dict[str, Any], seed: int) -> None:
        self.asking = asking
        self.admin = Administering(asking)
        self.auths: tuple[str, ...] = tuple(settings["auths"])
        self.nodes: tuple[str, ...] = tuple(settings["nodes"])
        self.secrets: dict[str, str] = settings["secrets"]
        self.grace: float = settings["refresh_grace"]
        self.lifetime: float = settings["token_lifetime"]
        self.wide: float = settings["wide"]
        self.forced: float = settings["forced"]
        self.thieves: int = settings["thieves"]
        self.watchers: int = settings["watchers"]
        self.lingering: float = settings["lingering"]
        self.freshness: float = settings["freshness"]
        self.spared = frozenset((*settings["users"][:_SPARED_USERS], *settings["programs"][:_SPARED_PROGRAMS]))
        self.live: dict[str, Credential] = {}
        self.dead: deque[Credential] = deque(maxlen=_MOST_DEAD)
        self.old: deque[Credential] = deque(maxlen=_MOST_OLD)
        self._pace: float = settings["pace"]
        self._seed = seed
        self._tasks: set[asyncio.Task[None]] = set()

    def uses(self, name: str) -> Uses:
        """A participant with its own dice."""
        return Uses(name, random.Random(f"{self._seed}/{name}"))  # noqa: S311 - a plan, not a secret

    async def pause(self, rng: random.Random, seconds: float) -> None:
        """Waits about so long, more if the pace is slow."""
        await asyncio.sleep(rng.uniform(0.5, 1.5) * seconds / self._pace)

    def retire(self, held: Credential) -> None:
        """A credential that its holder uses no more, and nobody has revoked."""
        self.old.append(held)

    def in_scope(self, scope: str, before: float) -> Iterator[Credential]:
        """The known credentials of a scope that were issued before a moment (monotonic seconds)."""
        for held in (*self.live.values(), *self.old):
            if held.belongs_to(scope) and held.answered < before:
                yield held

    def signed_by(self, kid: str) -> Iterator[Credential]:
        """The known credentials that a key has signed."""
        return (held for held in (*self.live.values(), *self.old) if held.kid == kid)

    def aside(self, work: Any) -> None:
        """Runs a coroutine beside everything else, until it or the town ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends what runs aside."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def fresh(held: Credential | None) -> bool:
    """Whether there is a credential that is certainly not expired."""
    return held is not None and time.monotonic() < held.good_until
