"""The statuses of exceptions reach every client, however much their texts name."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from authsvc.api.status_mapping import StatusMappingInterceptor
from authsvc.errors import FailedPrecondition, InvalidField

MANY_NODES = " ".join(f"orders-{number:04}-überall" for number in range(1000))
ERRORS = [FailedPrecondition(f"waits for {MANY_NODES}"), InvalidField("node", f"is none of {MANY_NODES}")]


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    """A channel to a server with a method that raises the error with the number that the request names."""

    def fail(request: bytes, _: grpc.ServicerContext) -> bytes:
        raise ERRORS[int(request)]

    handlers: dict[str, Any] = {"Fail": grpc.unary_unary_rpc_method_handler(fail)}
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, interceptors=[StatusMappingInterceptor()])
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("credmesh.test.Service", handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
        server.stop(0).wait()


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_a_text_that_names_many_nodes_reaches_the_client_with_its_status(channel: grpc.Channel, number: int) -> None:
    """A client of gRPC drops a call whose trailing metadata are large, and reports another status."""
    call: Any = channel.unary_unary("/credmesh.test.Service/Fail")
    with pytest.raises(grpc.RpcError) as failed:
        call(str(number).encode(), timeout=10)
    assert isinstance(failed.value, grpc.Call)
    expected = [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT][number]
    assert failed.value.code() is expected
    details = failed.value.details() or ""
    assert "orders-0007" in details
    assert details.endswith(" …")
    assert len(details.encode()) <= 1030
