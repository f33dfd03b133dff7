"""The operators, who revoke and rotate, and clients that try revoked and expired credentials."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from chaos.clients.answers import Outcome
from chaos.clients.credentials import Credential
from chaos.clients.workload import METHODS, STREAMS, Participant, Workload, is_fresh
from chaos.system.accounts import OPERATOR
from chaos.system.service import AUDIENCE
from credmesh.admin.v1 import keys_pb2
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_of_scope, session_scope, subject_scope

__all__ = ["OperatorCredential", "run_replayer", "run_revoking_operator", "run_rotating_operator"]

_ADMIN_TIMEOUT_SECONDS: Final = 9.0
_YOUNGEST_COUNT: Final = 10
_ALGORITHMS: Final = (
    (keys_pb2.KEY_ALGORITHM_EDDSA, 90),
    (keys_pb2.KEY_ALGORITHM_ES256, 8),
    (keys_pb2.KEY_ALGORITHM_RS256, 2),
)


class OperatorCredential:
    """The operators' own credential, which they share. A revocation of everyone revokes it, too."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._participant = workload.participant("operator")
        self._held: Credential | None = None
        self._lock = asyncio.Lock()

    async def credential(self) -> Credential:
        """Returns a valid credential; signs in if necessary, until that succeeds."""
        async with self._lock:
            while not is_fresh(self._held):
                at = self._participant.rng.choice(self._workload.auths)
                self._held = await self._workload.mesh.login_client(
                    OPERATOR, at, OPERATOR, self._workload.secrets[OPERATOR]
                )
                if self._held is None:
                    await self._workload.pause(self._participant.rng, 0.3)
            assert self._held is not None  # noqa: S101
            return self._held

    def refused(self, held: Credential, outcome: Outcome) -> None:
        """Takes note of an answer: if it refused the credential, the next operator signs in again."""
        if outcome.answer == "refused" and held is self._held:
            self._held = None


async def run_revoking_operator(workload: Workload, login: OperatorCredential, number: int, *, wait: bool) -> None:
    """Revokes a random scope, and tries its credentials at every node right away."""
    participant = workload.participant(f"revoking-operator-{number}")
    while True:
        victims = [held for name, held in workload.in_use.items() if name not in workload.never_revoked]
        if not victims:
            await workload.pause(participant.rng, 0.1)
            continue
        victim = participant.rng.choice(victims)
        admin = await login.credential()
        scope = _scope(workload, participant, victim)
        at = participant.rng.choice(workload.auths)
        asked = time.monotonic()
        session_id = session_of_scope(scope)
        if session_id is not None and participant.rng.random() < 0.5:
            outcome = await workload.admin.kick(
                participant.name, at, session_id, admin, wait=wait, timeout_seconds=_ADMIN_TIMEOUT_SECONDS
            )
        else:
            outcome = await workload.admin.revoke(
                participant.name, at, scope, admin, wait=wait, timeout_seconds=_ADMIN_TIMEOUT_SECONDS
            )
        login.refused(admin, outcome)
        if outcome.answer == "ok":
            await _retry_revoked(
                workload, participant, [held for held in workload.in_scope(scope, asked) if is_fresh(held)], outcome
            )
        await workload.pause(participant.rng, 0.35)


async def run_rotating_operator(workload: Workload, login: OperatorCredential) -> None:
    """Rotates the keys as often as possible, and sometimes revokes the signing key."""
    participant = workload.participant("rotating-operator")
    kid = ""
    while True:
        admin = await login.credential()
        at = participant.rng.choice(workload.auths)
        if kid and participant.rng.random() < workload.key_revocation_share:
            outcome = await workload.admin.revoke_key(participant.name, at, kid, admin, _ADMIN_TIMEOUT_SECONDS)
            if outcome.answer == "ok":
                await _retry_revoked(
                    workload, participant, [held for held in workload.signed_by(kid) if is_fresh(held)], outcome
                )
                kid = ""
        else:
            algorithm = participant.rng.choices([a for a, _ in _ALGORITHMS], [w for _, w in _ALGORITHMS])[0]
            outcome = await workload.admin.rotate(participant.name, at, algorithm, admin, _ADMIN_TIMEOUT_SECONDS)
            kid = outcome.details.get("kid", kid)
        login.refused(admin, outcome)
        await workload.pause(participant.rng, 0.5)


async def run_replayer(workload: Workload, number: int) -> None:
    """Tries credentials that were revoked, have expired or are about to, at random nodes: in calls, and in streams."""
    participant = workload.participant(f"replayer-{number}")
    while True:
        kind, at = participant.rng.random(), participant.rng.choice(workload.nodes)
        # A credential that was not revoked can only be refused for its expiry.
        untouched = [held for held in workload.retired if held.subject in workload.never_revoked]
        if untouched and kind < workload.lingering_share:
            # The youngest have some time left until their expiry.
            held = participant.rng.choice(untouched[-_YOUNGEST_COUNT:])
            seconds = participant.rng.uniform(0.5, 1.5) * workload.lifetime
            workload.run_aside(
                workload.mesh.stream(participant.name, at, participant.rng.choice(STREAMS), held, seconds)
            )
        else:
            pool = participant.rng.choices((workload.revoked, workload.retired, untouched), (5, 1, 4))[0]
            if pool:
                # Prefers the oldest: some have just expired.
                held = pool[int(participant.rng.random() ** 2 * len(pool))]
                await workload.mesh.call(participant.name, at, participant.rng.choice(METHODS), held)
        await workload.pause(participant.rng, 0.06)


def _scope(workload: Workload, participant: Participant, victim: Credential) -> str:
    """Draws a scope, mostly a narrow one: after a revocation of everyone, all clients sign in again."""
    if participant.rng.random() < workload.wide_share:
        wide: list[Callable[[], str]] = [
            lambda: EVERYONE,
            lambda: audience_scope(AUDIENCE),
            lambda: client_scope("password"),
        ]
        return participant.rng.choice(wide)()
    if victim.session is not None and participant.rng.random() < 0.5:
        return session_scope(victim.session)
    if victim.client == victim.subject and participant.rng.random() < 0.3:
        return client_scope(victim.client)
    return subject_scope(victim.subject)


async def _retry_revoked(
    workload: Workload, participant: Participant, revoked: list[Credential], outcome: Outcome
) -> None:
    """Tries a revoked credential now, and when its strict bound begins to hold; the replayers try all of them later."""
    workload.revoked.extend(revoked)
    if revoked:
        await _try_everywhere(workload, participant, participant.rng.choice(revoked))
    _try_at_strict_bound(workload, participant, revoked, outcome)


async def _try_everywhere(workload: Workload, participant: Participant, held: Credential) -> None:
    """Calls every node, strict and plain, with a credential that was just revoked."""
    calls = [workload.mesh.call(participant.name, at, method, held) for at in workload.nodes for method in METHODS]
    await asyncio.gather(*calls)


def _try_at_strict_bound(
    workload: Workload, participant: Participant, revoked: list[Credential], outcome: Outcome
) -> None:
    """Calls every node's strict method again as soon as the strict bound holds, if it does not hold yet."""
    receipt: dict[str, Any] | None = outcome.details.get("receipt")
    strict_in = workload.freshness if receipt is None else receipt["strict_in"]
    if not revoked or strict_in <= 0:
        return

    async def later() -> None:
        for after in (strict_in + 0.01, 0.3, 0.6):
            await asyncio.sleep(after)
            held = participant.rng.choice(revoked)
            await asyncio.gather(*(workload.mesh.call(participant.name, at, "Strict", held) for at in workload.nodes))

    workload.run_aside(later())
