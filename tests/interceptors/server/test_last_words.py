"""A response that a handler sends after the revocation of its stream is dropped, even if the call ends later.

A node acknowledges a revocation as soon as it has ended the streams. After that it must send no response of theirs,
however late the event loop ends their calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from interceptors import MeshNode, Reason
from interceptors.scopes import subject_scope
from interceptors.server import AioServerInterceptor
from tests.support.probe.clients import bearer, make_client
from tests.support.probe.issuer import Issuer
from tests.support.probe.schema import SERVICE
from tests.support.probe.servers import Loop
from tests.support.waiting import wait_until


def by_yielding(blocked: threading.Event, unblock: threading.Event) -> Callable[..., Any]:
    async def behaviour(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        yield StringValue(value="first")
        # Blocks the whole event loop, so that the call cannot be ended there.
        blocked.set()
        unblock.wait(20)
        yield StringValue(value="too late")
        await asyncio.Event().wait()

    return behaviour


def by_context(blocked: threading.Event, unblock: threading.Event) -> Callable[..., Any]:
    async def behaviour(request: StringValue, context: Any) -> None:
        await context.write(StringValue(value="first"))
        blocked.set()
        unblock.wait(20)
        await context.write(StringValue(value="too late"))
        await asyncio.Event().wait()

    return behaviour


@pytest.mark.parametrize("style", [by_yielding, by_context])
def test_no_response_is_sent_after_a_revocation_was_applied(
    node: MeshNode, issuer: Issuer, style: Callable[..., Callable[..., Any]]
) -> None:
    blocked, unblock = threading.Event(), threading.Event()
    handler = grpc.unary_stream_rpc_method_handler(
        style(blocked, unblock),
        request_deserializer=StringValue.FromString,
        response_serializer=StringValue.SerializeToString,
    )
    loop = Loop()

    async def serve() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(interceptors=[AioServerInterceptor(node)])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ServerStream": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = loop.run(serve())
    try:
        with make_client("sync", f"127.0.0.1:{port}") as client:
            stream = client.open("ServerStream", "x", metadata=bearer(issuer.token()))
            assert stream.next() == "first"
            assert blocked.wait(10)
            issuer.revoke(subject_scope("alice"))
            wait_until(lambda: len(node.streams) == 0)
            unblock.set()
            with pytest.raises(grpc.RpcError):
                stream.next()
            outcome = stream.end()
            assert (outcome.code, outcome.reason) == (grpc.StatusCode.UNAUTHENTICATED, Reason.CREDENTIAL_REVOKED)
    finally:
        unblock.set()
        loop.run(server.stop(None))
        loop.stop()
