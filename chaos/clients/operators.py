"""Who revokes, rotates, and looks whether the dead stay dead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from chaos.clients.answers import Outcome
from chaos.clients.credentials import Credential
from chaos.clients.workload import METHODS, STREAMS, Town, Uses, fresh
from chaos.system.accounts import OPERATOR
from chaos.system.service import AUDIENCE
from credmesh.admin.v1 import keys_pb2
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope

__all__ = ["Desk", "gravedigger", "revoker", "rotator"]

_PATIENCE: Final = 9.0
_YOUNGEST: Final = 10
_ALGORITHMS: Final = (
    (keys_pb2.KEY_ALGORITHM_EDDSA, 90),
    (keys_pb2.KEY_ALGORITHM_ES256, 8),
    (keys_pb2.KEY_ALGORITHM_RS256, 2),
)


class Desk:
    """The operators' own credential, which they share, and which may be revoked with everybody's."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._me = town.uses("operator")
        self._held: Credential | None = None
        self._lock = asyncio.Lock()

    async def credential(self) -> Credential:
        """One that is good; signs in if need be, for as long as it takes."""
        async with self._lock:
            while not fresh(self._held):
                at = self._me.rng.choice(self._town.auths)
                self._held = await self._town.asking.login_client(OPERATOR, at, OPERATOR, self._town.secrets[OPERATOR])
                if self._held is None:
                    await self._town.pause(self._me.rng, 0.3)
            assert self._held is not None  # noqa: S101
            return self._held

    def refused(self, held: Credential, outcome: Outcome) -> None:
        """To be told of each answer: the next one signs in anew if this one was no good."""
        if outcome.answer == "refused" and held is self._held:
            self._held = None


async def revoker(town: Town, desk: Desk, number: int, *, wait: bool) -> None:
    """Picks somebody, revokes, and looks at once whether every node knows."""
    me = town.uses(f"revoker-{number}")
    while True:
        victims = [held for name, held in town.live.items() if name not in town.spared]
        if not victims:
            await town.pause(me.rng, 0.1)
            continue
        victim = me.rng.choice(victims)
        admin = await desk.credential()
        scope = _scope(town, me, victim)
        at = me.rng.choice(town.auths)
        asked = time.monotonic()
        if scope.startswith("sid/") and me.rng.random() < 0.5:
            outcome = await town.admin.kick(
                me.name, at, scope.removeprefix("sid/"), admin, wait=wait, patience=_PATIENCE
            )
        else:
            outcome = await town.admin.revoke(me.name, at, scope, admin, wait=wait, patience=_PATIENCE)
        desk.refused(admin, outcome)
        if outcome.answer == "ok":
            await _bury(town, me, [held for held in town.in_scope(scope, asked) if fresh(held)], outcome)
        await town.pause(me.rng, 0.35)


async def rotator(town: Town, desk: Desk) -> None:
    """Rotates the keys as often as it can, and now and then removes the key that signs, and what it signed."""
    me = town.uses("rotator")
    kid = ""
    while True:
        admin = await desk.credential()
        at = me.rng.choice(town.auths)
        if kid and me.rng.random() < town.forced:
            outcome = await town.admin.revoke_key(me.name, at, kid, admin, _PATIENCE)
            if outcome.answer == "ok":
                await _bury(town, me, [held for held in town.signed_by(kid) if fresh(held)], outcome)
                kid = ""
        else:
            algorithm = me.rng.choices([a for a, _ in _ALGORITHMS], [w for _, w in _ALGORITHMS])[0]
            outcome = await town.admin.rotate(me.name, at, algorithm, admin, _PATIENCE)
            kid = outcome.details.get("kid", kid)
        desk.refused(admin, outcome)
        await town.pause(me.rng, 0.5)


async def gravedigger(town: Town, number: int) -> None:
    """Tries what was revoked, and what has expired or is about to, at any node: in calls, and in streams."""
    me = town.uses(f"gravedigger-{number}")
    while True:
        kind, at = me.rng.random(), me.rng.choice(town.nodes)
        # Of what was not revoked, only the expiry is left to refuse it.
        untouched = [held for held in town.old if held.subject in town.spared]
        if untouched and kind < town.lingering:
            # The youngest have some time left.
            held, seconds = me.rng.choice(untouched[-_YOUNGEST:]), me.rng.uniform(0.5, 1.5) * town.lifetime
            town.aside(town.asking.stream(me.name, at, me.rng.choice(STREAMS), held, seconds))
        else:
            pool = me.rng.choices((town.dead, town.old, untouched), (5, 1, 4))[0]
            if pool:
                # The oldest are most worth a try: some have just expired.
                held = pool[int(me.rng.random() ** 2 * len(pool))]
                await town.asking.call(me.name, at, me.rng.choice(METHODS), held)
        await town.pause(me.rng, 0.06)


def _scope(town: Town, me: Uses, victim: Credential) -> str:
    """Mostly narrow: whoever revokes everybody has everybody sign in anew."""
    if me.rng.random() < town.wide:
        wide: list[Callable[[], str]] = [
            lambda: EVERYONE,
            lambda: audience_scope(AUDIENCE),
            lambda: client_scope("password"),
        ]
        return me.rng.choice(wide)()
    if victim.session is not None and me.rng.random() < 0.5:
        return session_scope(victim.session)
    if victim.client == victim.subject and me.rng.random() < 0.3:
        return client_scope(victim.client)
    return subject_scope(victim.subject)


async def _bury(town: Town, me: Uses, dead: list[Credential], outcome: Outcome) -> None:
    """What was just revoked is tried now, and when its bound begins to hold, and again and again."""
    town.dead.extend(dead)
    if dead:
        await _look(town, me, me.rng.choice(dead))
    _look_later(town, me, dead, outcome)


async def _look(town: Town, me: Uses, held: Credential) -> None:
    """Tries a credential that was just revoked, at every node, strict and plain."""
    calls = [town.asking.call(me.name, at, method, held) for at in town.nodes for method in METHODS]
    await asyncio.gather(*calls)


def _look_later(town: Town, me: Uses, dead: list[Credential], outcome: Outcome) -> None:
    """Looks again right when the strict bound begins to hold, if that is not yet."""
    receipt: dict[str, Any] | None = outcome.details.get("receipt")
    strict_in = town.freshness if receipt is None else receipt["strict_in"]
    if not dead or strict_in <= 0:
        return

    async def later() -> None:
        for after in (strict_in + 0.01, 0.3, 0.6):
            await asyncio.sleep(after)
            held = me.rng.choice(dead)
            await asyncio.gather(*(town.asking.call(me.name, at, "Strict", held) for at in town.nodes))

    town.aside(later())
