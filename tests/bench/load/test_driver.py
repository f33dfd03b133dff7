"""The load generator: every answer is checked, and a run in which one is wrong is worth nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from bench.load.driver import drive, exactly
from bench.load.http2 import CallFailed, Connection
from bench.load.rounds import LONG_STREAM, UNARY, Work
from bench.shop import SyncShop, framed, stock
from credmesh.samples.inventory.v1 import inventory_pb2_grpc


class _Refusing(grpc.ServerInterceptor):
    """Refuses whoever shows no token, and keeps what was shown."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        metadata = dict(handler_call_details.invocation_metadata)
        self.seen.append(metadata.get("authorization"))
        if "authorization" in metadata:
            return continuation(handler_call_details)
        return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(_UNAUTHENTICATED, "no, thanks"))


_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def guard() -> _Refusing:
    """What stands before the shop."""
    return _Refusing()


@pytest.fixture
def connection(guard: _Refusing) -> Iterator[Connection]:
    """A connection to a shop."""
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[guard])
    inventory_pb2_grpc.add_InventoryServiceServicer_to_server(SyncShop(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Connection(port) as connection:
            yield connection
    finally:
        server.stop(0).wait(10)


@pytest.mark.parametrize("work", [UNARY, LONG_STREAM], ids=["unary", "stream"])
def test_calls_are_made_as_often_as_asked_and_with_their_token(
    connection: Connection, guard: _Refusing, work: Work
) -> None:
    request = connection.request(work.path, work.message, token="t" * 1000)
    load = drive([connection], lambda: request, exactly(work.expected), calls=50, timed=True)
    assert load.calls == len(load.latencies) == 50
    assert guard.seen == ["Bearer " + "t" * 1000] * 50


def test_a_wrong_answer_fails_the_run(connection: Connection) -> None:
    request = connection.request(UNARY.path, UNARY.message, token="t")
    with pytest.raises(CallFailed, match="status 0"):
        drive([connection], lambda: request, exactly(framed([stock("more")])), calls=10)


def test_a_refused_call_fails_the_run(connection: Connection) -> None:
    request = connection.request(UNARY.path, UNARY.message, token=None)
    with pytest.raises(CallFailed, match=r"status 16 \(no, thanks\)"):
        drive([connection], lambda: request, exactly(UNARY.expected), calls=10)
