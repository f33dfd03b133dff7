"""The load generator: it makes the calls that it is asked for, and a wrong response fails the run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from bench.load.driver import expect_exactly, make_calls
from bench.load.http2 import CallFailed, Connection, Request
from bench.load.rounds import LONG_STREAM, UNARY, CallKind
from bench.shop import WATCH_STOCK, SyncShop, grpc_framed, stock_response
from credmesh.samples.inventory.v1 import inventory_pb2, inventory_pb2_grpc


class _Refusing(grpc.ServerInterceptor):
    """Refuses calls without a token, and records the tokens."""

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
def interceptor() -> _Refusing:
    """The interceptor of the shop."""
    return _Refusing()


@pytest.fixture
def connection(interceptor: _Refusing) -> Iterator[Connection]:
    """A connection to a shop with that interceptor."""
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[interceptor])
    inventory_pb2_grpc.add_InventoryServiceServicer_to_server(SyncShop(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Connection(port) as connection:
            yield connection
    finally:
        server.stop(0).wait(10)


@pytest.mark.parametrize("kind", [UNARY, LONG_STREAM], ids=["unary", "stream"])
def test_calls_are_made_as_often_as_asked_and_with_their_token(
    connection: Connection, interceptor: _Refusing, kind: CallKind
) -> None:
    request = connection.request(kind.path, kind.message, token="t" * 1000)
    load = make_calls([connection], lambda: request, expect_exactly(kind.expected), calls=50, timed=True)
    assert load.calls == len(load.latencies) == 50
    assert interceptor.seen == ["Bearer " + "t" * 1000] * 50


def test_calls_at_a_rate_are_not_made_faster(connection: Connection) -> None:
    request = connection.request(UNARY.path, UNARY.message, token="t")
    load = make_calls([connection], lambda: request, expect_exactly(UNARY.expected), seconds=0.5, per_second=40)
    assert 1 <= load.calls <= 21
    assert load.seconds >= 0.4


def test_calls_at_a_rate_do_not_wait_for_the_answers_before(connection: Connection) -> None:
    """Otherwise a slower server would be sent a smaller flood, and two servers could not be compared under it."""
    request = connection.request(
        WATCH_STOCK, inventory_pb2.WatchStockRequest(sku="hold").SerializeToString(), token="t"
    )
    started = 0

    def next_request() -> Request:
        nonlocal started
        started += 1
        if started == 5:
            raise _Enough
        return request

    with pytest.raises(_Enough):
        make_calls([connection], next_request, expect_exactly(b""), seconds=30, per_second=100)


class _Enough(Exception):
    """As many calls were started as the test waits for."""


def test_a_wrong_response_fails_the_run(connection: Connection) -> None:
    request = connection.request(UNARY.path, UNARY.message, token="t")
    with pytest.raises(CallFailed, match="status 0"):
        make_calls([connection], lambda: request, expect_exactly(grpc_framed([stock_response("more")])), calls=10)


def test_a_refused_call_fails_the_run(connection: Connection) -> None:
    request = connection.request(UNARY.path, UNARY.message, token=None)
    with pytest.raises(CallFailed, match=r"status 16 \(no, thanks\)"):
        make_calls([connection], lambda: request, expect_exactly(UNARY.expected), calls=10)
