"""Keys rotate while callers call at full speed. No call may be refused."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from credmesh.admin.v1 import keys_pb2
from interceptors.tokens.access_token import token_kid
from localmesh.demo.figures import Figures
from localmesh.demo.load import BackgroundCalls
from localmesh.demo.mesh_client import MeshClient
from localmesh.demo.narrator import Narrator

__all__ = ["rotate_keys"]

_ROTATIONS: Final = 6
_CALLERS: Final = 4
_ROTATION_TIMEOUT_SECONDS: Final = 20.0
_ROTATION_PAUSE_SECONDS: Final = 0.3
_REFRESH_INTERVAL_SECONDS: Final = 0.02


async def rotate_keys(narrator: Narrator, client: MeshClient, figures: Figures) -> None:
    """Rotates several times under load.

    One caller keeps the token that it had before the first rotation. The others always use the newest token, so every
    service sees a new token within milliseconds of its signing. A rotation that did not wait until every node holds the
    new key would be noticed there.
    """
    narrator.chapter("keys rotate while callers call at full speed")
    bob = await client.sign_in("bob")
    operator = await client.sign_in_operator()
    first_metadata = bob.metadata
    kids = {token_kid(bob.token)}
    seconds: list[float] = []
    calls = BackgroundCalls(client, [lambda: first_metadata, *([lambda: bob.metadata] * (_CALLERS - 1))])

    async def refresh_repeatedly() -> None:
        while True:
            await client.refresh(bob)
            kids.add(token_kid(bob.token))
            await asyncio.sleep(_REFRESH_INTERVAL_SECONDS)

    async with calls:
        refreshing = asyncio.create_task(refresh_repeatedly())
        try:
            for _ in range(_ROTATIONS):
                started_at = time.perf_counter()
                request = keys_pb2.RotateKeysRequest(wait=True)
                await client.keys.RotateKeys(request, metadata=operator.metadata, timeout=_ROTATION_TIMEOUT_SECONDS)
                seconds.append(time.perf_counter() - started_at)
                await asyncio.sleep(_ROTATION_PAUSE_SECONDS)
        finally:
            refresh_error = refreshing.exception() if refreshing.done() and not refreshing.cancelled() else None
            refreshing.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await refreshing
    figures.rotation.rotations = len(seconds)
    figures.rotation.calls_during = calls.calls
    figures.rotation.refused = calls.refused.total()
    figures.calls.ok += calls.ok
    figures.calls.refused += calls.refused.total()
    narrator.check(
        refresh_error is None, "bob's token was refreshed during all rotations", otherwise=repr(refresh_error)
    )
    narrator.check(
        len(kids) > _ROTATIONS,
        f"{len(seconds)} rotations, {max(seconds) * 1000:.0f} ms at most; {len(kids)} keys signed bob's tokens",
        otherwise=f"{len(kids)} keys",
    )
    narrator.check(
        not calls.refused and calls.ok > 0,
        f"{calls.calls:,} calls during the rotations, with old and new tokens: {calls.refused.total()} refused",
        otherwise=str(dict(calls.refused)),
    )
