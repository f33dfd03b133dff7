"""The state that all clients share: the credentials in use, the revoked ones, and the pace."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from chaos.clients.admin_client import AdminClient
from chaos.clients.credentials import Credential
from chaos.clients.mesh_client import MeshClient

__all__ = ["METHODS", "STREAMS", "Participant", "Workload"]

METHODS: Final = ("Plain", "Strict")
STREAMS: Final = ("Stream", "StrictStream")
_MAX_REVOKED: Final = 300
_MAX_RETIRED: Final = 400
_NEVER_REVOKED_USERS: Final = 2
_NEVER_REVOKED_PROGRAMS: Final = 4


@dataclass(frozen=True, slots=True)
class Participant:
    """A client in the test bed: its name, and its own random generator, so that a seed repeats its choices."""

    name: str
    rng: random.Random


class Workload:
    """The shared state of one event loop.

    in_use           credentials in use, by their holder's name
    revoked          credentials that were revoked, to be tried again and again
    retired          credentials that have expired, or are about to
    never_revoked    holders that no operator revokes individually, so that some credentials live until they expire
    wide_share       the share of revocations that are of everyone, or nearly everyone
    key_revocation_share
                     the share of rotations that revoke the signing key instead
    reuse_weight     how often a refresh token is reused after its grace window, relative to a holder's other actions
    stream_weight    how often a stream is opened, relative to them
    lingering_share  the share of attempts with retired credentials that are streams, which last beyond the expiry
    """

    def __init__(self, mesh: MeshClient, settings: dict[str, Any], seed: int) -> None:
        self.mesh = mesh
        self.admin = AdminClient(mesh)
        self.auths: tuple[str, ...] = tuple(settings["auths"])
        self.nodes: tuple[str, ...] = tuple(settings["nodes"])
        self.secrets: dict[str, str] = settings["secrets"]
        self.grace: float = settings["refresh_grace"]
        self.lifetime: float = settings["token_lifetime"]
        self.wide_share: float = settings["wide_share"]
        self.key_revocation_share: float = settings["key_revocation_share"]
        self.reuse_weight: int = settings["reuse_weight"]
        self.stream_weight: int = settings["stream_weight"]
        self.lingering_share: float = settings["lingering_share"]
        self.freshness: float = settings["freshness"]
        self.never_revoked = frozenset(
            (*settings["users"][:_NEVER_REVOKED_USERS], *settings["programs"][:_NEVER_REVOKED_PROGRAMS])
        )
        self.in_use: dict[str, Credential] = {}
        self.revoked: deque[Credential] = deque(maxlen=_MAX_REVOKED)
        self.retired: deque[Credential] = deque(maxlen=_MAX_RETIRED)
        self._pace: float = settings["pace"]
        self._seed = seed
        self._tasks: set[asyncio.Task[None]] = set()

    def participant(self, name: str) -> Participant:
        """A participant with its own random generator."""
        return Participant(name, random.Random(f"{self._seed}/{name}"))  # noqa: S311 - a plan, not a secret

    async def pause(self, rng: random.Random, seconds: float) -> None:
        """Waits for about this time, divided by the pace."""
        await asyncio.sleep(rng.uniform(0.5, 1.5) * seconds / self._pace)

    def retire(self, held: Credential) -> None:
        """Adds a credential that its holder has stopped using, and that was not revoked."""
        self.retired.append(held)

    def in_scope(self, scope: str, before: float) -> Iterator[Credential]:
        """The known credentials of a scope that were issued before a moment (monotonic seconds)."""
        for held in (*self.in_use.values(), *self.retired):
            if held.belongs_to(scope) and held.answered < before:
                yield held

    def signed_by(self, kid: str) -> Iterator[Credential]:
        """The known credentials that a key has signed."""
        return (held for held in (*self.in_use.values(), *self.retired) if held.kid == kid)

    def run_aside(self, work: Any) -> None:
        """Runs a coroutine concurrently, until it or the workload ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancels the coroutines that were started with `run_aside`."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def is_fresh(held: Credential | None) -> bool:
    """Whether this is a credential that has certainly not expired."""
    return held is not None and time.monotonic() < held.good_until
