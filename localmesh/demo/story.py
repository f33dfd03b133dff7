"""The demo from beginning to end."""

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
from localmesh.demo.bad_credentials import try_bad_credentials
from localmesh.demo.demo_mesh import DemoMesh, demo_mesh
from localmesh.demo.figures import Figures
from localmesh.demo.mesh_client import MeshClient, failure_reason, reason_text
from localmesh.demo.narrator import DemoFailed, Narrator
from localmesh.demo.outage import kill_auth_replica, stop_etcd
from localmesh.demo.revoking import revoke_alice
from localmesh.demo.rotating import rotate_keys
from localmesh.demo.shopping import go_shopping
from localmesh.demo.streams import StockStream

__all__ = ["demo"]

T = TypeVar("T")

_CHAPTER_TIMEOUT_SECONDS: Final = 90.0


def demo(*, folder: Path, report: Path) -> int:
    """Runs the demo and writes its figures to `report`. Returns the exit code: 0 only if every check passed."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    narrator = Narrator(console)
    figures = Figures()
    started_at = time.monotonic()
    try:
        with demo_mesh(folder) as mesh:
            asyncio.run(_run_chapters(narrator, mesh, figures))
    except (CredmeshError, DemoFailed) as error:
        narrator.check(False, "the demo ran to its end", otherwise=str(error))
    except KeyboardInterrupt:
        console.print("\n[bold]interrupted[/]")
        return 130
    finally:
        # An interrupted demo has measured something too.
        figures.write(report)
    console.print(f"\n[dim]{time.monotonic() - started_at:.0f} s; the figures are in {report}[/]")
    if narrator.failures:
        console.print(f"[red bold]{len(narrator.failures)} checks failed:[/]")
        for failure in narrator.failures:
            console.print(f"  [red]✗[/] {failure}", soft_wrap=True)
        return 1
    console.print("[green bold]Every check passed.[/]")
    return 0


async def _run_chapters(narrator: Narrator, mesh: DemoMesh, figures: Figures) -> None:
    figures.up_seconds = round(mesh.up_seconds, 2)
    origin = "started for this demo" if mesh.temporary else "that was up already"
    narrator.console.print(
        f"[bold]credmesh[/]: two auth replicas, three services and etcd; a mesh {origin}, up in {mesh.up_seconds:.1f} s"
    )
    async with MeshClient(mesh) as client, AsyncExitStack() as until_the_end:
        await _chapter(go_shopping(narrator, mesh, client, figures))
        stream = await _chapter(_open_stream(narrator, client, until_the_end))
        await _chapter(rotate_keys(narrator, client, figures))
        await _chapter(revoke_alice(narrator, client, figures))
        await _chapter(try_bad_credentials(narrator, mesh, client, figures))
        await _chapter(kill_auth_replica(narrator, mesh, client, figures))
        await _chapter(stop_etcd(narrator, mesh, client, figures, stream))
        narrator.check(
            not stream.ended.is_set(),
            f"bob's stream of stock changes was open throughout: {stream.changes:,} changes",
            otherwise=reason_text(stream.reason),
        )


async def _open_stream(narrator: Narrator, client: MeshClient, until_the_end: AsyncExitStack) -> StockStream:
    """Opens bob's stream, which must survive every chapter: no rotation, revocation or outage concerns bob."""
    stream = await until_the_end.enter_async_context(StockStream.open(client, await client.sign_in("bob")))
    narrator.check(True, "server stream: bob watches the stock of tea until the end of the demo")
    return stream


async def _chapter(chapter: Awaitable[T]) -> T:
    """Runs a chapter for a bounded time. DemoFailed if it takes longer, or if a call fails that it needs."""
    try:
        async with asyncio.timeout(_CHAPTER_TIMEOUT_SECONDS):
            return await chapter
    except aio.AioRpcError as error:
        reason = reason_text(failure_reason(error))
        raise DemoFailed(f"a call failed: {reason} ({escape(error.details() or '')})") from error
    except TimeoutError:
        raise DemoFailed(f"the chapter did not end within {_CHAPTER_TIMEOUT_SECONDS:g} s") from None
