"""The holders of credentials: users, with passwords and sessions, and programs, with client secrets."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from chaos.clients.answers import Outcome
from chaos.clients.credentials import Credential
from chaos.clients.mesh_client import PATIENT_CALL_TIMEOUT_SECONDS
from chaos.clients.workload import METHODS, STREAMS, Participant, Workload

__all__ = ["run_program", "run_user"]

_OPAQUE_SHARE: Final = 0.25
_PATIENT_CALL_SHARE: Final = 0.1
_RENEWABLE: Final = ("CREDENTIAL_REVOKED", "KEY_UNKNOWN", "CREDENTIAL_EXPIRED", "CREDENTIAL_INVALID")
_MAX_ATTEMPTS: Final = 3


async def run_program(workload: Workload, client: str) -> None:
    """Runs a program: it signs in, makes calls, and signs in again when refused or before its token expires."""
    participant = workload.participant(client)
    while True:
        held = await workload.mesh.login_client(
            client, participant.rng.choice(workload.auths), client, workload.secrets[client]
        )
        if held is None:
            await workload.pause(participant.rng, 0.3)
            continue
        workload.in_use[client] = held
        while time.monotonic() < held.good_until:
            outcome = await _call(workload, participant, held)
            if outcome.reason in _RENEWABLE:
                break
            await workload.pause(participant.rng, 0.25)
        else:
            workload.retire(held)
        workload.in_use.pop(client, None)


async def run_user(workload: Workload, subject: str) -> None:
    """Runs a user: it signs in, and uses the session until it ends."""
    participant = workload.participant(subject)
    while True:
        opaque = participant.rng.random() < _OPAQUE_SHARE
        held = await workload.mesh.login_user(subject, participant.rng.choice(workload.auths), subject, opaque=opaque)
        if held is None:
            await workload.pause(participant.rng, 0.5)
            continue
        await _Session(workload, participant, held).run()
        workload.in_use.pop(subject, None)


class _Session:
    """A session, and what its holder does with it."""

    def __init__(self, workload: Workload, participant: Participant, held: Credential) -> None:
        self._workload = workload
        self._participant = participant
        self._held = held
        self._ended = False
        workload.in_use[participant.name] = held

    async def run(self) -> None:
        """Makes random calls until the session has ended."""
        actions = {self._call: 60, self._stream: self._workload.stream_weight}
        if self._held.refresh_token is not None:
            actions |= {
                self._refresh: 8,
                self._refresh_twice: 3,
                self._retry: 3,
                self._reuse: self._workload.reuse_weight,
            }
        actions[self._logout] = 1
        rng = self._participant.rng
        while not self._ended:
            expiring = time.monotonic() > self._held.good_until - self._workload.lifetime / 3
            if expiring and self._held.refresh_token is not None:
                await self._refresh()
            else:
                await rng.choices(list(actions), list(actions.values()))[0]()
            await self._workload.pause(rng, 0.3)

    async def _call(self) -> None:
        outcome = await _call(self._workload, self._participant, self._held)
        if outcome.reason in _RENEWABLE:
            # As the product's own client does: a refresh tells whether the session has ended or only the token.
            await self._refresh()

    async def _stream(self) -> None:
        at, seconds = self._participant.rng.choice(self._workload.nodes), self._participant.rng.uniform(1, 6)
        method = self._participant.rng.choice(STREAMS)
        self._workload.run_aside(self._workload.mesh.stream(self._participant.name, at, method, self._held, seconds))

    async def _refresh(self) -> None:
        """Refreshes. If the outcome is unknown, retries with the same refresh token within the grace window."""
        token = self._held.refresh_token
        if token is None:
            self._ended = True
            return
        for _ in range(_MAX_ATTEMPTS):
            found = await self._send_refresh(token)
            if isinstance(found, Credential):
                self._replace_credential(found)
                return
            if found.answer == "refused" and found.reason in _RENEWABLE:
                self._ended = True
                return
            await self._workload.pause(self._participant.rng, 0.2)
        # A client that cannot renew uses its token until it expires, and signs in again after that.
        self._ended = time.monotonic() > self._held.good_until

    async def _refresh_twice(self) -> None:
        """Refreshes at two replicas at once, like two processes that share a session."""
        token = self._held.refresh_token
        assert token is not None  # noqa: S101
        answers = await asyncio.gather(*(self._send_refresh(token, at) for at in self._workload.auths[:2]))
        for found in answers:
            if isinstance(found, Credential):
                self._replace_credential(found)
        if any(isinstance(found, Outcome) and found.reason in _RENEWABLE for found in answers):
            self._ended = True

    async def _retry(self) -> None:
        """Presents a used refresh token again within the grace window, as if the answer had been lost."""
        used = self._held.refresh_token
        assert used is not None  # noqa: S101
        await self._refresh()
        await asyncio.sleep(self._participant.rng.uniform(0, self._workload.grace / 3))
        found = await self._send_refresh(used)
        if isinstance(found, Credential):
            self._replace_credential(found)
        elif found.reason in _RENEWABLE:
            self._ended = True

    async def _reuse(self) -> None:
        """Presents a used refresh token after the grace window, like a thief."""
        used = self._held.refresh_token
        assert used is not None  # noqa: S101
        await self._refresh()
        await asyncio.sleep(self._workload.grace + self._participant.rng.uniform(0.5, 2))
        found = await self._send_refresh(used)
        if isinstance(found, Outcome) and found.reason in _RENEWABLE:
            # The session must have ended now, for its holder, too.
            await self._refresh()

    async def _logout(self) -> None:
        outcome = await self._workload.admin.logout(
            self._participant.name, self._participant.rng.choice(self._workload.auths), self._held
        )
        if outcome.answer == "ok":
            self._workload.revoked.append(self._held)
            self._ended = True

    async def _send_refresh(self, token: str, at: str = "") -> Credential | Outcome:
        at = at or self._participant.rng.choice(self._workload.auths)
        return await self._workload.mesh.refresh(self._participant.name, at, self._held, token)

    def _replace_credential(self, renewed: Credential) -> None:
        self._workload.retire(self._held)
        self._held = renewed
        self._workload.in_use[self._participant.name] = renewed


async def _call(workload: Workload, participant: Participant, held: Credential) -> Outcome:
    at, method = participant.rng.choice(workload.nodes), participant.rng.choice(METHODS)
    if participant.rng.random() < _PATIENT_CALL_SHARE:
        workload.run_aside(workload.mesh.call(participant.name, at, method, held, PATIENT_CALL_TIMEOUT_SECONDS))
        return Outcome("none")
    return await workload.mesh.call(participant.name, at, method, held)
