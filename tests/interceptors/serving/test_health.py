"""gRPC health on servers of both kinds: answered whatever callers do, and true during a drain."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from credmesh.samples.inventory.v1 import inventory_pb2
from credmesh.samples.inventory.v1.inventory_pb2_grpc import InventoryServiceStub
from tests.interceptors.serving.conftest import Launch, ServedProcess
from tests.support.raw_calls import RawConnection
from tests.support.waiting import wait_until

Metadata = tuple[tuple[str, str], ...]
Shared = Callable[[str], ServedProcess]

SERVICE = "credmesh.samples.inventory.v1.InventoryService"
WATCH = "/grpc.health.v1.Health/Watch"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture(params=["sync", "aio"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the server."""
    value: str = request.param
    return value


def stub(channel: grpc.Channel) -> Any:
    """Health, also with the methods that the type stubs lack."""
    made: Any = health_pb2_grpc.HealthStub(channel)
    return made


def check(channel: grpc.Channel, service: str = "") -> int:
    """The status that Check returns."""
    status: int = stub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status
    return status


def test_the_health_of_every_service_is_listed(kind: str, shared_server: Shared) -> None:
    request: Any = health_pb2
    with shared_server(kind).channel() as channel:
        listed = stub(channel).List(request.HealthListRequest(), timeout=10).statuses
        assert {name: status.status for name, status in listed.items()} == {"": SERVING, SERVICE: SERVING}


def test_the_health_of_an_unknown_service_is_not_found(kind: str, shared_server: Shared) -> None:
    server = shared_server(kind)
    with server.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            check(channel, "elsewhere")
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub(channel).Watch(health_pb2.HealthCheckRequest(service="elsewhere"), timeout=10)
        assert next(watch).status == UNKNOWN
        watch.cancel()
    assert not server.said("Traceback")


def test_a_watcher_sees_the_drain(kind: str, launch: Launch) -> None:
    server = launch(kind)
    with server.channel() as channel, RawConnection(server.port, window=0) as reads_nothing:
        reads_nothing.send(reads_nothing.begin(WATCH), b"")
        watches = [
            stub(channel).Watch(health_pb2.HealthCheckRequest(service=name), timeout=30) for name in ("", SERVICE)
        ]
        assert [next(watch).status for watch in watches] == [SERVING, SERVING]
        server.process.terminate()
        assert [next(watch).status for watch in watches] == [NOT_SERVING, NOT_SERVING]


def test_a_client_that_checks_health_connects(kind: str, shared_server: Shared, bearer: Metadata) -> None:
    """A gRPC client with a healthCheckConfig sends calls only to servers whose Watch says SERVING."""
    config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": SERVICE}}
    target = f"127.0.0.1:{shared_server(kind).port}"
    with grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(config))]) as channel:
        call = InventoryServiceStub(channel).GetStock
        answer = call(inventory_pb2.GetStockRequest(sku="tea"), metadata=bearer, timeout=10, wait_for_ready=True)
        assert answer.left == 1


def test_health_needs_no_thread_of_a_sync_server(launch: Launch, bearer: Metadata) -> None:
    server = launch("sync")
    with server.channel() as channel, ExitStack() as stack:
        stub_of = InventoryServiceStub(channel)
        for _ in range(40):
            stack.callback(
                stub_of.GetStock.future(inventory_pb2.GetStockRequest(sku="stuck"), metadata=bearer, timeout=60).cancel
            )
        wait_until(lambda: [line["message"] for line in server.lines()].count("asked for stuck") == 32)
        assert check(channel) == check(channel, SERVICE) == SERVING
        watch = stub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(watch).status == SERVING
        watch.cancel()


def test_open_reflection_streams_stop_neither_calls_nor_health(
    kind: str, shared_server: Shared, bearer: Metadata
) -> None:
    server = shared_server(kind)
    with ExitStack() as stack:
        for _ in range(4):
            raw = stack.enter_context(RawConnection(server.port))
            for _ in range(25):
                raw.begin("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with server.channel() as channel:
            answer = InventoryServiceStub(channel).GetStock(
                inventory_pb2.GetStockRequest(sku="tea"), metadata=bearer, timeout=10
            )
            assert answer.left == 1
            assert check(channel) == SERVING


def test_a_request_above_the_limit_is_refused(kind: str, shared_server: Shared, bearer: Metadata) -> None:
    with shared_server(kind).channel() as channel, pytest.raises(grpc.RpcError) as caught:
        InventoryServiceStub(channel).GetStock(
            inventory_pb2.GetStockRequest(sku="x" * 1_100_000), metadata=bearer, timeout=10
        )
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
