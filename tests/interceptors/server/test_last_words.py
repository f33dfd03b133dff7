"""What a handler says after its stream was revoked is not sent, however late its event loop gets to ending the call.

A node acknowledges a revocation right after it has told its streams to end. From then on nothing may leave.
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


def by_yielding(blocked: threading.Event, go_on: threading.Event) -> Callable[..., Any]:
    async def behaviour(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        yield StringValue(value="first")
        # The whole event loop stands still, so that nothing of what is scheduled there can happen.
        blocked.set()
        go_on.wait(20)
        yield StringValue(value="last words")
        await asyncio.Event().wait()

    return behaviour


def by_context(blocked: threading.Event, go_on: threading.Event) -> Callable[..., Any]:
    async def behaviour(request: StringValue, context: Any) -> None:
        await context.write(StringValue(value="first"))
        blocked.set()
        go_on.wait(20)
        await context.write(StringValue(value="last words"))
        await asyncio.Event().wait()

    return behaviour


@pytest.mark.parametrize("style", [by_yielding, by_context])
def test_nothing_is_sent_after_a_revocation_was_applied(
    node: MeshNode, issuer: Issuer, style: Callable[..., Callable[..., Any]]
) -> None:
    blocked, go_on = threading.Event(), threading.Event()
    handler = grpc.unary_stream_rpc_method_handler(
        style(blocked, go_on),
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
            wait_until(lambda: len(node.calls) == 0)
            go_on.set()
            with pytest.raises(grpc.RpcError):
                stream.next()
            outcome = stream.end()
            assert (outcome.code, outcome.reason) == (grpc.StatusCode.UNAUTHENTICATED, Reason.CREDENTIAL_REVOKED)
    finally:
        go_on.set()
        loop.run(server.stop(None))
        loop.stop()
