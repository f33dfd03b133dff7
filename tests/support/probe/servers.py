"""Probe servers over real sockets: sync, aio, and aio with other styles of handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from interceptors import MeshNode
from interceptors.server import AioServerInterceptor, ServerInterceptor
from tests.support.probe.back import AioBack, Back
from tests.support.probe.servicers import Record, aio_handlers, sync_handlers

__all__ = ["SERVERS", "Loop", "ProbeServer"]

SERVERS = ("sync", "aio", "aio-by-context", "aio-threads")

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 30) -> T:
        """Runs a coroutine there and waits for what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def stop(self) -> None:
        """Ends what still runs there, and the thread."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=5) if tasks else None


class ProbeServer:
    """A probe behind our interceptor. `kind` is one of SERVERS; `back` is the target of another probe behind it."""

    def __init__(self, node: MeshNode, kind: str, *, threads: int = 16, back: str = "") -> None:
        self.kind = kind
        self.record = Record()
        in_threads = kind in ("sync", "aio-threads")
        self._back = Back(back) if back and in_threads else None
        self._aio_back: AioBack | None = None
        self._pool = ThreadPoolExecutor(threads)
        self._loop: Loop | None = None
        self._server: Any
        if kind == "sync":
            self._server = grpc.server(self._pool, interceptors=[ServerInterceptor(node)])
            self._server.add_generic_rpc_handlers((sync_handlers(self.record, self._back),))
            self.port = self._server.add_insecure_port("127.0.0.1:0")
            self._server.start()
        else:
            self._loop = Loop()
            self.port = self._loop.run(self._start_aio(node, kind, "" if in_threads else back))

    async def _start_aio(self, node: MeshNode, kind: str, back: str) -> int:
        self._server = grpc.aio.server(self._pool, interceptors=[AioServerInterceptor(node)])
        if kind == "aio-threads":
            handlers = sync_handlers(self.record, self._back)
        else:
            self._aio_back = AioBack(back) if back else None
            handlers = aio_handlers(self.record, self._aio_back, by_context=kind == "aio-by-context")
        self._server.add_generic_rpc_handlers((handlers,))
        port: int = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    async def _end_threads(self) -> None:
        # grpc has a plain generator's thread wait for good until somebody takes its next answer, also where the call is
        # over and nobody will. A process that has such threads does not exit.
        loop = asyncio.get_running_loop()
        # What their calls ended with nobody asks for, of which asyncio would complain in the middle of a later test.
        loop.set_exception_handler(lambda _loop, _context: None)
        ended = loop.run_in_executor(None, self._pool.shutdown)
        while not ended.done():
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.wait([ended], timeout=0.05)

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.record.release.set()
        if self._loop is None:
            self._server.stop(0).wait(10)
        else:
            self._loop.run(self._server.stop(0))
            self._loop.run(self._end_threads())
            if self._aio_back is not None:
                self._loop.run(self._aio_back.close())
            self._loop.stop()
        if self._back is not None:
            self._back.close()
