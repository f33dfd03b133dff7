"""The call of a plain generator on an asyncio server can be ended at any moment."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

from interceptors.errors import Reason, Refusal
from interceptors.server.aio_ending import ThreadedStreamContext
from tests.support.probe.servers import Loop


def test_a_call_that_is_ended_during_its_first_response_gets_its_status() -> None:
    contexts: list[ThreadedStreamContext] = []
    running, go, over = threading.Event(), threading.Event(), threading.Event()

    def behaviour(_request: bytes, context: Any) -> Iterator[bytes]:
        stream_context = ThreadedStreamContext(context)
        contexts.append(stream_context)
        running.set()
        go.wait(10)
        stream_context.begin()
        yield b"one"
        over.wait(10)
        yield b"two"

    async def serve() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(ThreadPoolExecutor(16))
        method: Any = grpc.unary_stream_rpc_method_handler(behaviour)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    codes: Counter[grpc.StatusCode] = Counter()
    loop = Loop()
    try:
        server, port = loop.run(serve())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(12):
                running.clear()
                go.clear()
                stream: Any = channel.unary_stream("/s/m")
                call = stream(b"", timeout=5)
                assert running.wait(10)
                go.set()
                contexts[-1].end_soon(Refusal(Reason.CREDENTIAL_REVOKED, "a test"))
                codes[call.code()] += 1
        assert codes == {grpc.StatusCode.UNAUTHENTICATED: 12}
        over.set()
        loop.run(server.stop(0))
    finally:
        over.set()
        loop.stop()
