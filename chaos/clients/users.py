"""Who holds credentials: people, with passwords and sessions, and programs, with secrets."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from chaos.clients.answers import Outcome
from chaos.clients.asking import PATIENT
from chaos.clients.credentials import Credential
from chaos.clients.workload import METHODS, STREAMS, Town, Uses

__all__ = ["person", "program"]

_OPAQUE: Final = 0.25
_PATIENTLY: Final = 0.1
_RENEWABLE: Final = ("CREDENTIAL_REVOKED", "KEY_UNKNOWN", "CREDENTIAL_EXPIRED", "CREDENTIAL_INVALID")
_RETRIES: Final = 3


async def program(town: Town, client: str) -> None:
    """A program: signs in, calls for a while, and signs in anew when it is refused or its token grows old."""
    me = town.uses(client)
    while True:
        held = await town.asking.login_client(client, me.rng.choice(town.auths), client, town.secrets[client])
        if held is None:
            await town.pause(me.rng, 0.3)
            continue
        town.live[client] = held
        while time.monotonic() < held.good_until:
            outcome = await _call(town, me, held)
            if outcome.reason in _RENEWABLE:
                break
            await town.pause(me.rng, 0.25)
        else:
            town.retire(held)
        town.live.pop(client, None)


async def person(town: Town, subject: str) -> None:
    """A person: signs in, and lives a session until it ends."""
    me = town.uses(subject)
    while True:
        opaque = me.rng.random() < _OPAQUE
        held = await town.asking.login_user(subject, me.rng.choice(town.auths), subject, opaque=opaque)
        if held is None:
            await town.pause(me.rng, 0.5)
            continue
        await _Session(town, me, held).live()
        town.live.pop(subject, None)


class _Session:
    """A session and its holder's habits."""

    def __init__(self, town: Town, me: Uses, held: Credential) -> None:
        self._town = town
        self._me = me
        self._held = held
        self._over = False
        town.live[me.name] = held

    async def live(self) -> None:
        """Does this and that until the session is over."""
        habits = {self._call: 60, self._stream: self._town.watchers}
        if self._held.refresh_token is not None:
            habits |= {self._refresh: 8, self._refresh_twice: 3, self._retry: 3, self._reuse: self._town.thieves}
        habits[self._logout] = 1
        rng = self._me.rng
        while not self._over:
            expiring = time.monotonic() > self._held.good_until - self._town.lifetime / 3
            if expiring and self._held.refresh_token is not None:
                await self._refresh()
            else:
                await rng.choices(list(habits), list(habits.values()))[0]()
            await self._town.pause(rng, 0.3)

    async def _call(self) -> None:
        outcome = await _call(self._town, self._me, self._held)
        if outcome.reason in _RENEWABLE:
            # As our own client does: a refresh tells whether the session is over or only the token.
            await self._refresh()

    async def _stream(self) -> None:
        at, seconds = self._me.rng.choice(self._town.nodes), self._me.rng.uniform(1, 6)
        method = self._me.rng.choice(STREAMS)
        self._town.aside(self._town.asking.stream(self._me.name, at, method, self._held, seconds))

    async def _refresh(self) -> None:
        """Refreshes; where nobody knows whether that was done, again with the same token, within the grace window."""
        token = self._held.refresh_token
        if token is None:
            self._over = True
            return
        for _ in range(_RETRIES):
            found = await self._ask(token)
            if isinstance(found, Credential):
                self._take(found)
                return
            if found.answer == "refused" and found.reason in _RENEWABLE:
                self._over = True
                return
            await self._town.pause(self._me.rng, 0.2)
        # Whoever cannot renew goes on with what there is, and signs in anew when it is of no use any more.
        self._over = time.monotonic() > self._held.good_until

    async def _refresh_twice(self) -> None:
        """Two processes that share a session refresh at the same moment, at two replicas."""
        token = self._held.refresh_token
        assert token is not None  # noqa: S101
        answers = await asyncio.gather(*(self._ask(token, at) for at in self._town.auths[:2]))
        for found in answers:
            if isinstance(found, Credential):
                self._take(found)
        if any(isinstance(found, Outcome) and found.reason in _RENEWABLE for found in answers):
            self._over = True

    async def _retry(self) -> None:
        """The answer to a refresh was lost: the used token is shown again, soon."""
        used = self._held.refresh_token
        assert used is not None  # noqa: S101
        await self._refresh()
        await asyncio.sleep(self._me.rng.uniform(0, self._town.grace / 3))
        found = await self._ask(used)
        if isinstance(found, Credential):
            self._take(found)
        elif found.reason in _RENEWABLE:
            self._over = True

    async def _reuse(self) -> None:
        """A thief shows a token that was used long ago."""
        used = self._held.refresh_token
        assert used is not None  # noqa: S101
        await self._refresh()
        await asyncio.sleep(self._town.grace + self._me.rng.uniform(0.5, 2))
        found = await self._ask(used)
        if isinstance(found, Outcome) and found.reason in _RENEWABLE:
            # The session should be over now, for its rightful holder too.
            await self._refresh()

    async def _logout(self) -> None:
        outcome = await self._town.admin.logout(self._me.name, self._me.rng.choice(self._town.auths), self._held)
        if outcome.answer == "ok":
            self._town.dead.append(self._held)
            self._over = True

    async def _ask(self, token: str, at: str = "") -> Credential | Outcome:
        at = at or self._me.rng.choice(self._town.auths)
        return await self._town.asking.refresh(self._me.name, at, self._held, token)

    def _take(self, renewed: Credential) -> None:
        self._town.retire(self._held)
        self._held = renewed
        self._town.live[self._me.name] = renewed


async def _call(town: Town, me: Uses, held: Credential) -> Outcome:
    at, method = me.rng.choice(town.nodes), me.rng.choice(METHODS)
    if me.rng.random() < _PATIENTLY:
        town.aside(town.asking.call(me.name, at, method, held, PATIENT))
        return Outcome("none")
    return await town.asking.call(me.name, at, method, held)
