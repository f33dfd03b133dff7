"""The story from beginning to end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, TypeVar

from grpc import aio
from rich.console import Console
from rich.markup import escape

from interceptors.errors import CredmeshError
from localmesh.demo.actors import Nodes, reason_text, why
from localmesh.demo.figures import Figures
from localmesh.demo.hostile import try_bad_credentials
from localmesh.demo.narrator import Misbehaved, Teller
from localmesh.demo.outage import kill_a_replica, stop_etcd
from localmesh.demo.revoking import revoke_alice
from localmesh.demo.rotating import rotate
from localmesh.demo.shopping import walk
from localmesh.demo.stage import Stage, set_stage
from localmesh.demo.streams import StockStream

__all__ = ["demo"]

T = TypeVar("T")

_CHAPTER_WITHIN: Final = 90.0


def demo(*, folder: Path, report: Path) -> int:
    """Plays the story, writes the report, and returns the exit code: 0 only if everything behaved."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    teller = Teller(console)
    figures = Figures()
    began = time.monotonic()
    try:
        with set_stage(folder) as stage:
            asyncio.run(_play(teller, stage, figures))
    except (CredmeshError, Misbehaved) as error:
        teller.check(False, "the story could be told to its end", otherwise=str(error))
    except KeyboardInterrupt:
        console.print("\n[bold]interrupted[/]")
        return 130
    finally:
        # What was measured is worth having, also of a story that broke off.
        figures.write(report)
    console.print(f"\n[dim]{time.monotonic() - began:.0f} s; the figures are in {report}[/]")
    if teller.wrong:
        console.print(f"[red bold]{len(teller.wrong)} misbehaved:[/]")
        for wrong in teller.wrong:
            console.print(f"  [red]✗[/] {wrong}", soft_wrap=True)
        return 1
    console.print("[green bold]Everything behaved.[/]")
    return 0


async def _play(teller: Teller, stage: Stage, figures: Figures) -> None:
    figures.up_seconds = round(stage.up_seconds, 2)
    whose = "made for this story" if stage.own else "that was up already"
    teller.console.print(
        f"[bold]credmesh[/]: two auth replicas, three services, etcd; a mesh {whose}, up in {stage.up_seconds:.1f} s"
    )
    async with Nodes(stage) as nodes, AsyncExitStack() as until_the_end:
        await _chapter(walk(teller, stage, nodes, figures))
        stream = await _chapter(_watch(teller, nodes, until_the_end))
        await _chapter(rotate(teller, nodes, figures))
        await _chapter(revoke_alice(teller, nodes, figures))
        await _chapter(try_bad_credentials(teller, stage, nodes, figures))
        await _chapter(kill_a_replica(teller, stage, nodes, figures))
        await _chapter(stop_etcd(teller, stage, nodes, figures, stream))
        teller.check(
            not stream.ended.is_set(),
            f"bob's stream of stock changes was open throughout: {stream.changes:,} changes",
            otherwise=reason_text(stream.reason),
        )


async def _watch(teller: Teller, nodes: Nodes, until: AsyncExitStack) -> StockStream:
    """Opens bob's stream. It stays open whatever is rotated, revoked, killed and stopped: none of that is about him."""
    stream = await until.enter_async_context(StockStream.of(nodes, await nodes.sign_in("bob")))
    teller.check(True, "the server streams: bob watches the stock of tea, from here on")
    return stream


async def _chapter(chapter: Awaitable[T]) -> T:
    """Runs a chapter for a bounded time. Misbehaved if a call failed that the rest of it stands on."""
    try:
        async with asyncio.timeout(_CHAPTER_WITHIN):
            return await chapter
    except aio.AioRpcError as error:
        raise Misbehaved(f"a call failed: {reason_text(why(error))} ({escape(error.details() or '')})") from error
    except TimeoutError:
        raise Misbehaved(f"the chapter was not over after {_CHAPTER_WITHIN:g} s") from None
