"""The attackers, whose credentials must never be accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from chaos.clients.workload import METHODS, Participant, Workload
from chaos.system.accounts import OUTSIDER
from interceptors.tokens.opaque_token import OpaqueKind
from localmesh import forged_tokens

__all__ = ["run_attacker"]

Metadata = tuple[tuple[str, str | bytes], ...]

_OVERSIZED_PADDING_BYTES: Final = 5000


async def run_attacker(workload: Workload) -> None:
    """Tries one forgery after another, at random nodes and replicas."""
    participant = workload.participant("attacker")
    public_key = b"unknown"
    kinds_left: list[str] = []
    while True:
        keys = await workload.mesh.key_set(participant.rng.choice(workload.auths))
        if keys is not None and keys.keys:
            public_key = keys.keys[-1].x.encode()
        for _ in range(20):
            tokens = [held.token for held in workload.in_use.values() if held.kind == "token"]
            if tokens:
                # Each kind once before any is repeated, so that a short run tries all of them.
                kinds_left = kinds_left or participant.rng.sample(_KINDS, len(_KINDS))
                await _forge(workload, participant, kinds_left.pop(), participant.rng.choice(tokens), public_key)
            await workload.pause(participant.rng, 0.25)


async def _forge(workload: Workload, participant: Participant, kind: str, token: str, public_key: bytes) -> None:
    if kind == "audience":
        await _forge_audience(workload, participant, kind, token)
        return
    if kind == "refresh":
        forged = forged_tokens.with_guessed_secret(OpaqueKind.REFRESH, _session_id(token))
        await workload.mesh.forged_refresh(participant.name, participant.rng.choice(workload.auths), kind, forged)
        return
    metadata = _FORGERIES[kind](token, public_key)
    await workload.mesh.forged(
        participant.name, participant.rng.choice(workload.nodes), kind, metadata, participant.rng.choice(METHODS)
    )


async def _forge_audience(workload: Workload, participant: Participant, kind: str, token: str) -> None:
    """Presents a token for the nodes to the auth service, and a token for another service to every node."""
    at = participant.rng.choice(workload.auths)
    await workload.admin.forged(participant.name, at, kind, _bearer(token))
    held = await workload.mesh.login_client(participant.name, at, OUTSIDER, workload.secrets[OUTSIDER])
    if held is not None:
        method = participant.rng.choice(METHODS)
        await asyncio.gather(
            *(workload.mesh.forged(participant.name, at, kind, _bearer(held.token), method) for at in workload.nodes)
        )


def _bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def _altered_subject(token: str, _: bytes) -> Metadata:
    return _bearer(forged_tokens.with_claims(token, sub="user-0x", epoch=1 << 50))


def _unsigned(token: str, _: bytes) -> Metadata:
    return _bearer(forged_tokens.unsigned(token))


def _signed_with_public_key(token: str, public_key: bytes) -> Metadata:
    return _bearer(forged_tokens.signed_with_public_key(token, public_key))


def _unknown_key(token: str, _: bytes) -> Metadata:
    return _bearer(forged_tokens.with_header(token, kid="unknown"))


def _doubled(token: str, _: bytes) -> Metadata:
    return _bearer(token) + _bearer(token)


def _padded(token: str, _: bytes) -> Metadata:
    return _bearer(token + "=")


def _oversized(token: str, _: bytes) -> Metadata:
    return _bearer(token + "A" * _OVERSIZED_PADDING_BYTES)


def _guessed_session(token: str, _: bytes) -> Metadata:
    """An opaque session with a right id and a wrong secret."""
    return _bearer(forged_tokens.with_guessed_secret(OpaqueKind.SESSION, _session_id(token)))


def _no_credential(_token: str, _: bytes) -> Metadata:
    return ()


_FORGERIES: Final[dict[str, Callable[[str, bytes], Metadata]]] = {
    "altered": _altered_subject,
    "unsigned": _unsigned,
    "public-key": _signed_with_public_key,
    "unknown-key": _unknown_key,
    "doubled": _doubled,
    "padded": _padded,
    "oversized": _oversized,
    "guessed-session": _guessed_session,
    "nothing": _no_credential,
}
_KINDS: Final = (*_FORGERIES, "refresh", "audience")


def _session_id(token: str) -> str | None:
    session_id: str | None = forged_tokens.claims_of(token).get("sid")
    return session_id
