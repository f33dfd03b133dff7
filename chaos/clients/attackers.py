"""Who comes with what must never be accepted."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any, Final

from chaos.clients.workload import METHODS, Town, Uses
from chaos.system.accounts import OUTSIDER
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken

__all__ = ["stranger"]

Metadata = tuple[tuple[str, str | bytes], ...]

_LARGE: Final = 5000


async def stranger(town: Town) -> None:
    """Tries one forgery after another, at any node and replica."""
    me = town.uses("stranger")
    public_key = b"unknown"
    tries: list[str] = []
    while True:
        keys = await town.asking.key_set(me.rng.choice(town.auths))
        if keys is not None and keys.keys:
            public_key = keys.keys[-1].x.encode()
        for _ in range(20):
            tokens = [held.token for held in town.live.values() if held.kind == "token"]
            if tokens:
                # Each once, and then all again: in a short run, too, none is left out.
                tries = tries or me.rng.sample(list(_FORGERIES), len(_FORGERIES))
                await _try(town, me, tries.pop(), me.rng.choice(tokens), public_key)
            await town.pause(me.rng, 0.25)


async def _try(town: Town, me: Uses, kind: str, token: str, public_key: bytes) -> None:
    if kind == "audience":
        await _try_elsewhere(town, me, kind, token)
        return
    if kind == "refresh":
        forged = OpaqueToken.generate(OpaqueKind.REFRESH, _session_of(token)).text()
        await town.asking.forged_refresh(me.name, me.rng.choice(town.auths), kind, forged)
        return
    metadata = _FORGERIES[kind](token, public_key)
    await town.asking.forged(me.name, me.rng.choice(town.nodes), kind, metadata, me.rng.choice(METHODS))


async def _try_elsewhere(town: Town, me: Uses, kind: str, token: str) -> None:
    """What is good for another service, at every node; and what is good for these nodes, at the auth service."""
    at = me.rng.choice(town.auths)
    await town.admin.forged(me.name, at, kind, _bearer(token))
    held = await town.asking.login_client(me.name, at, OUTSIDER, town.secrets[OUTSIDER])
    if held is not None:
        method = me.rng.choice(METHODS)
        await asyncio.gather(*(town.asking.forged(me.name, at, kind, _bearer(held.token), method) for at in town.nodes))


def _bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def _altered(token: str, _: bytes) -> Metadata:
    """Another subject under the same signature."""
    header, claims, signature = token.split(".")
    changed = {**_decoded(claims), "sub": "user-0x", "epoch": 1 << 50}
    return _bearer(f"{header}.{_encoded(changed)}.{signature}")


def _unsigned(token: str, _: bytes) -> Metadata:
    _header, claims, _signature = token.split(".")
    return _bearer(f"{_encoded({'alg': 'none', 'typ': 'at+jwt', 'kid': 'x'})}.{claims}.")


def _by_public_key(token: str, public_key: bytes) -> Metadata:
    """HS256 with the public key as the secret: what a verifier that trusts the header falls for."""
    header, claims, _ = token.split(".")
    signed = f"{_encoded({**_decoded(header), 'alg': 'HS256'})}.{claims}"
    digest = hmac.new(public_key, signed.encode(), hashlib.sha256).digest()
    return _bearer(f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}")


def _unknown_key(token: str, _: bytes) -> Metadata:
    header, claims, signature = token.split(".")
    return _bearer(f"{_encoded({**_decoded(header), 'kid': 'nobody-knows'})}.{claims}.{signature}")


def _doubled(token: str, _: bytes) -> Metadata:
    return _bearer(token) + _bearer(token)


def _padded(token: str, _: bytes) -> Metadata:
    return _bearer(token + "=")


def _oversized(token: str, _: bytes) -> Metadata:
    return _bearer(token + "A" * _LARGE)


def _guessed_session(token: str, _: bytes) -> Metadata:
    """An opaque session whose id is right and whose secret is not."""
    return _bearer(OpaqueToken.generate(OpaqueKind.SESSION, _session_of(token)).text())


def _nothing(_token: str, _: bytes) -> Metadata:
    return ()


_FORGERIES: Final[dict[str, Callable[[str, bytes], Metadata]]] = {
    "altered": _altered,
    "unsigned": _unsigned,
    "public-key": _by_public_key,
    "unknown-key": _unknown_key,
    "doubled": _doubled,
    "padded": _padded,
    "oversized": _oversized,
    "guessed-session": _guessed_session,
    "nothing": _nothing,
    "refresh": _altered,
    "audience": _altered,
}


def _session_of(token: str) -> str | None:
    session: str | None = _decoded(token.split(".")[1]).get("sid")
    return session


def _decoded(part: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def _encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=").decode()
