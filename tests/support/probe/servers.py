"""Probe servers over real sockets: sync, aio, and aio with other styles of handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from interceptors import MeshNode
from interceptors.server import AioServerInterceptor, CallPool, ServerInterceptor
from tests.support.probe.backend import AioBackend, Backend
from tests.support.probe.servicers import Record, aio_handlers, sync_handlers

__all__ = ["SERVERS", "Loop", "ProbeServer"]

SERVERS = ("sync", "aio", "aio-by-context", "aio-threads")

T = TypeVar("T")


class Loop:
    """An event loop in a separate thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 30) -> T:
        """Runs a coroutine in the loop, and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def stop(self) -> None:
        """Cancels all tasks, and ends the thread."""
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
    """A probe server with this project's interceptor.

    kind             one of SERVERS
    backend          the target of another probe
    message_timeout  seconds for the first message of a call
    before, after    other interceptors, before and after this project's
    """

    def __init__(
        self,
        node: MeshNode,
        kind: str,
        *,
        threads: int = 16,
        backend: str = "",
        message_timeout: float = 20.0,
        before: Sequence[Any] = (),
        after: Sequence[Any] = (),
    ) -> None:
        self.kind = kind
        self._before, self._after = before, after
        self.record = Record()
        in_threads = kind in ("sync", "aio-threads")
        self._backend = Backend(backend) if backend and in_threads else None
        self._aio_backend: AioBackend | None = None
        self._message_timeout = message_timeout
        call_pool = CallPool(threads, message_timeout=message_timeout) if kind == "sync" else None
        self.pool: ThreadPoolExecutor = call_pool or ThreadPoolExecutor(threads)
        self._waits: CallPool | AioServerInterceptor | None = call_pool
        self._loop: Loop | None = None
        self._server: Any
        if kind == "sync":
            self._server = grpc.server(self.pool, interceptors=[*before, ServerInterceptor(node), *after])
            self._server.add_generic_rpc_handlers((sync_handlers(self.record, self._backend),))
            self.port = self._server.add_insecure_port("127.0.0.1:0")
            self._server.start()
        else:
            self._loop = Loop()
            self.port = self._loop.run(self._start_aio(node, kind, "" if in_threads else backend))

    async def _start_aio(self, node: MeshNode, kind: str, backend: str) -> int:
        interceptor = AioServerInterceptor(node, message_timeout=self._message_timeout)
        self._waits = interceptor
        self._server = grpc.aio.server(self.pool, interceptors=[*self._before, interceptor, *self._after])
        if kind == "aio-threads":
            handlers = sync_handlers(self.record, self._backend)
        else:
            self._aio_backend = AioBackend(backend) if backend else None
            handlers = aio_handlers(self.record, self._aio_backend, by_context=kind == "aio-by-context")
        self._server.add_generic_rpc_handlers((handlers,))
        port: int = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    async def _end_threads(self) -> None:
        # grpc blocks the thread of a plain generator until its next answer is taken, even after the call is over. A
        # process with such threads does not exit.
        loop = asyncio.get_running_loop()
        # No code retrieves the exceptions of these calls, and asyncio would log that in the middle of a later test.
        loop.set_exception_handler(lambda _loop, _context: None)
        ended = loop.run_in_executor(None, self.pool.shutdown)
        while not ended.done():
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.wait([ended], timeout=0.05)

    @property
    def awaited(self) -> int:
        """How many calls wait for their first message."""
        assert self._waits is not None
        return self._waits.awaited

    @property
    def target(self) -> str:
        """The address of the server."""
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
            if self._aio_backend is not None:
                self._loop.run(self._aio_backend.close())
            self._loop.stop()
        if self._backend is not None:
            self._backend.close()
