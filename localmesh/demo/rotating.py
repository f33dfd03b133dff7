"""Keys rotate while callers call at full speed: nobody may notice."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from credmesh.admin.v1 import keys_pb2
from interceptors.tokens.access_token import token_kid
from localmesh.demo.actors import Nodes
from localmesh.demo.figures import Figures
from localmesh.demo.load import Callers
from localmesh.demo.narrator import Teller

__all__ = ["rotate"]

_ROTATIONS: Final = 6
_CALLERS: Final = 4
_ROTATE_WITHIN: Final = 20.0
_BETWEEN: Final = 0.3
_REFRESH_EVERY: Final = 0.02


async def rotate(teller: Teller, nodes: Nodes, figures: Figures) -> None:
    """Rotates several times under load.

    One caller keeps the token that it had before the first rotation. The others always have the newest: a fresh one is
    used on every service within a moment of its being signed, which is where a rotation that does not wait for the
    nodes would show.
    """
    teller.chapter("keys rotate while everybody calls at full speed")
    bob = await nodes.sign_in("bob")
    operator = await nodes.operator()
    before = bob.metadata
    kids = {token_kid(bob.token)}
    took: list[float] = []
    callers = Callers(nodes, [lambda: before, *([lambda: bob.metadata] * (_CALLERS - 1))])

    async def refresh_all_the_time() -> None:
        while True:
            await nodes.refresh(bob)
            kids.add(token_kid(bob.token))
            await asyncio.sleep(_REFRESH_EVERY)

    async with callers:
        refreshing = asyncio.create_task(refresh_all_the_time())
        try:
            for _ in range(_ROTATIONS):
                began = time.perf_counter()
                request = keys_pb2.RotateKeysRequest(wait=True)
                await nodes.keys.RotateKeys(request, metadata=operator.metadata, timeout=_ROTATE_WITHIN)
                took.append(time.perf_counter() - began)
                await asyncio.sleep(_BETWEEN)
        finally:
            trouble = refreshing.exception() if refreshing.done() and not refreshing.cancelled() else None
            refreshing.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await refreshing
    figures.rotation.rotations = len(took)
    figures.rotation.calls_during = callers.calls
    figures.rotation.refused = callers.refused.total()
    figures.calls.ok += callers.ok
    figures.calls.refused += callers.refused.total()
    teller.check(trouble is None, "bob's token was refreshed all the time", otherwise=repr(trouble))
    teller.check(
        len(kids) > _ROTATIONS,
        f"{len(took)} rotations, {max(took) * 1000:.0f} ms at most; {len(kids)} keys in turn signed bob's tokens",
        otherwise=f"{len(kids)} keys",
    )
    teller.check(
        not callers.refused and callers.ok > 0,
        f"{callers.calls:,} calls meanwhile, with old and new tokens: {callers.refused.total()} refused",
        otherwise=str(dict(callers.refused)),
    )
