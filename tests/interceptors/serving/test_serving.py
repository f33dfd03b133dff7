"""What a platform expects of any server, on servers of both kinds: health, drain, signals, TLS, metrics, errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from credmesh.samples.inventory.v1 import inventory_pb2
from credmesh.samples.inventory.v1.inventory_pb2_grpc import InventoryServiceStub
from interceptors import EtcdSettings, MeshNode, MeshSettings, ServerSettings
from interceptors.errors import Reason, reason_of
from interceptors.serving import serve, serve_aio
from localmesh.certs import development_certificates
from localmesh.etcd.process import EtcdProcess
from tests.interceptors.serving.conftest import Launch, ServedProcess
from tests.support.probe.issuer import ISSUER
from tests.support.waiting import free_port, signal_another_thread, wait_until

Metadata = tuple[tuple[str, str], ...]
Shared = Callable[[str], ServedProcess]

SERVICE = "credmesh.samples.inventory.v1.InventoryService"

pytestmark = pytest.mark.parametrize("kind", ["sync", "aio"])


def health(channel: grpc.Channel, service: str = "") -> int:
    """Returns the status that gRPC health reports."""
    check: Any = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    status: int = check(health_pb2.HealthCheckRequest(service=service), timeout=10).status
    return status


def start_call(server: ServedProcess, sku: str, bearer: Metadata) -> Any:
    """Starts a call in the background, and returns when its handler runs."""
    call = server.stub().GetStock.future(inventory_pb2.GetStockRequest(sku=sku), metadata=bearer, timeout=60)
    wait_until(lambda: server.said(f"asked for {sku}"), what="the handler runs")
    return call


def test_calls_are_verified_before_any_other_code_runs(kind: str, shared_server: Shared, bearer: Metadata) -> None:
    stub = shared_server(kind).stub()
    assert stub.GetStock(inventory_pb2.GetStockRequest(sku="tea"), metadata=bearer, timeout=10).left == 1
    with pytest.raises(grpc.RpcError) as refused:
        stub.GetStock(inventory_pb2.GetStockRequest(sku="tea"), timeout=10)
    metadata: Any = cast("grpc.Call", refused.value).trailing_metadata()
    assert reason_of(metadata) is Reason.CREDENTIAL_MISSING


def test_health_and_reflection_need_no_credential(kind: str, shared_server: Shared) -> None:
    with shared_server(kind).channel() as channel:
        assert health(channel) == health(channel, SERVICE) == health_pb2.HealthCheckResponse.SERVING
        stub_of: Any = reflection_pb2_grpc.ServerReflectionStub
        answers = stub_of(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="*")])
        )
        names = {service.name for service in next(answers).list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


def test_a_stop_lets_calls_end_and_ends_streams(kind: str, launch: Launch, bearer: Metadata) -> None:
    """A rolling update must not fail a call that is being served, nor wait for streams that never end."""
    server = launch(kind)
    call = start_call(server, "slow", bearer)
    stream = server.stub().WatchStock(inventory_pb2.WatchStockRequest(), metadata=bearer, timeout=60)
    assert next(stream).left == 1
    server.process.terminate()
    assert list(stream) == []
    assert not call.done()
    assert server.process.alive


def test_a_stop_waits_for_the_last_call(kind: str, launch: Launch, bearer: Metadata) -> None:
    server = launch(kind, CREDMESH_DRAIN="20")
    stub = server.stub()
    call = stub.GetStock.future(inventory_pb2.GetStockRequest(sku="slow"), metadata=bearer, timeout=60)
    wait_until(lambda: server.said("asked for slow"), what="the handler runs")
    stub.Reserve(inventory_pb2.ReserveRequest(sku="slow"), metadata=bearer, timeout=10)
    server.process.terminate()
    assert call.result(timeout=20).left == 1
    assert server.process.wait(20)
    assert server.process.exit_code == 0


def test_a_drain_ends_after_its_time_even_if_a_handler_never_returns(
    kind: str, launch: Launch, bearer: Metadata
) -> None:
    """Then the open calls are cancelled, and the process ends."""
    server = launch(kind, CREDMESH_DRAIN="0.2")
    call = start_call(server, "slow", bearer)
    start_call(server, "stuck", bearer)
    server.process.terminate()
    with pytest.raises(grpc.RpcError):
        call.result(timeout=20)
    assert server.process.wait(25)


@pytest.mark.parametrize("another_thread", [False, True])
def test_a_second_signal_cancels_open_calls_at_once(
    kind: str, launch: Launch, bearer: Metadata, another_thread: bool
) -> None:
    server = launch(kind, CREDMESH_DRAIN="60")
    call = start_call(server, "slow", bearer)
    server.process.terminate()
    wait_until(lambda: server.said("stopping on SIGTERM"), what="the drain has begun")

    def ended_by_another_signal() -> bool:
        # Within a second of the first, a signal is taken for the first one, sent twice. The process may have ended.
        with contextlib.suppress(OSError):
            (signal_another_thread if another_thread else os.kill)(server.process.pid or 0, signal.SIGTERM)
        return bool(call.done())

    wait_until(ended_by_another_signal, what="the call ends")
    with pytest.raises(grpc.RpcError):
        call.result(timeout=20)


def test_a_port_in_use_is_named(kind: str, launch: Launch, bearer: Metadata) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = launch(kind, CREDMESH_LISTEN=address)
        assert server.process.wait(30)
    assert server.process.exit_code == 1
    assert server.said(f"cannot listen on {address}: Address already in use; stop what uses it, or set CREDMESH_LISTEN")
    assert not server.said("add_port"), "gRPC logs its own line if it tries to listen"


def test_two_servers_do_not_share_a_port(kind: str, shared_server: Shared, launch: Launch) -> None:
    """By gRPC's default the second server would take half of the first one's calls, without an error."""
    second = launch(kind, CREDMESH_LISTEN=f"127.0.0.1:{shared_server(kind).port}")
    assert second.process.wait(30)
    assert second.process.exit_code == 1


def test_a_wrong_setting_is_named_with_an_example(kind: str, launch: Launch) -> None:
    server = launch(kind, CREDMESH_PLAINTEXT="maybe")
    assert server.process.wait(30)
    assert server.process.exit_code == 2
    assert server.said("CREDMESH_PLAINTEXT='maybe' is not a valid bool; for example: CREDMESH_PLAINTEXT=true")


def test_an_unknown_service_is_named_in_one_line(kind: str, launch: Launch) -> None:
    """A PolicyError, as for a method without a rule."""
    server = launch(kind, WAITING_SERVICES="no.such.Service")
    assert server.process.wait(30)
    assert server.process.exit_code == 1
    (said,) = [line["message"] for line in server.lines() if line["level"] == "CRITICAL"]
    assert said.startswith("waiting ends: there is no service 'no.such.Service': its _pb2 module has to be")
    assert not server.said("Traceback")


@pytest.mark.parametrize("wrong", ["CREDMESH_TLS_CERT_FILE", "CREDMESH_TLS_KEY_FILE"])
def test_a_certificate_and_a_key_that_do_not_match_are_named(
    kind: str, launch: Launch, tmp_path: Path, wrong: str
) -> None:
    files, other = (development_certificates(tmp_path / name) for name in ("files", "other"))
    environ = {"CREDMESH_TLS_CERT_FILE": str(files.cert_file), "CREDMESH_TLS_KEY_FILE": str(other.key_file)}
    if wrong == "CREDMESH_TLS_CERT_FILE":
        environ[wrong] = str(files.key_file)
    server = launch(kind, CREDMESH_PLAINTEXT="", **environ)
    assert server.process.wait(30)
    assert server.process.exit_code == 2
    assert server.said(f"waiting: {wrong}={environ[wrong]} ")
    assert server.said(f"; for example: {wrong}=/etc/credmesh/tls.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_another_thread_gets_is_noticed(kind: str, launch: Launch, number: signal.Signals) -> None:
    """The kernel may deliver a signal to any thread. Python runs the handler in the main thread, which must wake up."""
    server = launch(kind)
    assert server.port > 0
    signal_another_thread(server.process.pid or 0, number)
    assert server.process.wait(20)
    assert server.process.exit_code == 0
    assert server.said(f"stopping on {number.name}")


@pytest.mark.parametrize("another_thread", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_waits_for_etcd_ends_at_the_first_signal(
    kind: str, launch: Launch, number: signal.Signals, another_thread: bool
) -> None:
    """The first process of a container gets SIGTERM only if it has a handler for it."""
    server = launch(kind, ETCD_ENDPOINTS=f"127.0.0.1:{free_port()}", CREDMESH_ETCD_TIMEOUT="0.5")
    wait_until(lambda: server.said("does not answer"), 30, "it says what it waits for")
    (signal_another_thread if another_thread else os.kill)(server.process.pid or 0, number)
    assert server.process.wait(20)
    assert server.process.exit_code == (0 if number is signal.SIGTERM else 130)
    assert not server.said("Traceback")


def test_signal_handlers_are_restored_after_serving(kind: str, etcd_settings: EtcdSettings) -> None:
    """A signal that comes while the node leaves the mesh must reach the handler that was set before."""

    def handler(*_: object) -> None:
        """Handles a signal that comes before the server listens."""

    before = signal.signal(signal.SIGTERM, handler)
    settings = ServerSettings(listen="127.0.0.1:0", plaintext=True, drain=0)
    stopping = threading.Event()

    def signal_until_stopping() -> bool:
        if not stopping.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        return stopping.wait(0.1)

    def add(_server: object) -> None:
        threading.Thread(target=wait_until, args=(signal_until_stopping,)).start()

    try:
        with MeshNode(MeshSettings(etcd=etcd_settings, service="probe", issuer=ISSUER)) as node:
            if kind == "aio":
                asyncio.run(serve_aio(add, node=node, settings=settings, services=[], on_stop=[stopping.set]))
            else:
                serve(add, node=node, settings=settings, services=[], on_stop=[stopping.set])
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_metrics_are_served(kind: str, shared_server: Shared, bearer: Metadata) -> None:
    server = shared_server(kind)
    server.stub().GetStock(inventory_pb2.GetStockRequest(sku="tea"), metadata=bearer, timeout=10)
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert "credmesh_" in text
    assert "process_resident_memory_bytes" in text


def test_a_metrics_port_in_use_is_named(kind: str, launch: Launch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        server = launch(kind, CREDMESH_METRICS=f"127.0.0.1:{taken.getsockname()[1]}")
        assert server.process.wait(30)
    assert server.process.exit_code == 1
    assert server.said("set CREDMESH_METRICS to another host:port")


def test_a_log_line_of_a_handler_names_the_caller(kind: str, shared_server: Shared, bearer: Metadata) -> None:
    server = shared_server(kind)
    server.stub().GetStock(inventory_pb2.GetStockRequest(sku="milk"), metadata=bearer, timeout=10)
    (line,) = [line for line in server.lines() if line["message"] == "asked for milk"]
    assert (line["subject"], line["service"], line["level"]) == ("alice", "waiting", "INFO")
    assert bearer[0][1].removeprefix("Bearer ") not in server.process.log_file.read_text()


def test_a_renewed_certificate_is_served_without_a_restart(
    kind: str, launch: Launch, bearer: Metadata, tmp_path: Path
) -> None:
    first, second = (development_certificates(tmp_path / name) for name in ("first", "second"))
    live = tmp_path / "live"
    live.mkdir()
    cert_file, key_file = live / "tls.crt", live / "tls.key"
    for path, source in ((cert_file, first.cert_file), (key_file, first.key_file)):
        path.write_bytes(source.read_bytes())
    server = launch(
        kind, CREDMESH_PLAINTEXT="", CREDMESH_TLS_CERT_FILE=str(cert_file), CREDMESH_TLS_KEY_FILE=str(key_file)
    )
    target = f"127.0.0.1:{server.port}"

    def trusted(ca_file: Path) -> bool:
        roots = grpc.ssl_channel_credentials(ca_file.read_bytes())
        with grpc.secure_channel(target, roots, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                return health(channel) == health_pb2.HealthCheckResponse.SERVING
            except grpc.RpcError:
                return False

    assert trusted(first.ca_file)
    assert not trusted(second.ca_file)
    for path, source in ((cert_file, second.cert_file), (key_file, second.key_file)):
        path.write_bytes(source.read_bytes())
    wait_until(lambda: trusted(second.ca_file), what="the new certificate is served")
    assert not trusted(first.ca_file)


def test_a_server_starts_before_etcd_and_waits_for_it(kind: str, launch: Launch, own_etcd: EtcdProcess) -> None:
    endpoint = own_etcd.endpoint
    own_etcd.stop()
    server = launch(kind, ETCD_ENDPOINTS=endpoint, CREDMESH_ETCD_TIMEOUT="0.5")
    wait_until(lambda: server.said("does not answer"), 30, "it says what it waits for")
    assert not server.logged_port()
    threading.Thread(target=own_etcd.start).start()
    with server.channel() as channel:
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING


def test_a_signal_that_is_sent_twice_at_once_does_not_cut_the_drain_short(
    kind: str, launch: Launch, bearer: Metadata
) -> None:
    """`timeout` and `tini -g` do that."""
    server = launch(kind, CREDMESH_DRAIN="60")
    call = start_call(server, "slow", bearer)
    stub = server.stub()
    assert stub.GetStock(inventory_pb2.GetStockRequest(sku="tea"), metadata=bearer, timeout=10).left == 1
    server.process.terminate()
    server.process.terminate()
    wait_until(lambda: server.said("stopping on SIGTERM"))
    assert not call.done()
    assert not server.said("a second signal")


def test_a_server_accepts_calls_during_the_delay_of_a_drain(kind: str, launch: Launch, bearer: Metadata) -> None:
    """So a load balancer, which looks at the health now and then, stops sending calls before they are refused."""
    server = launch(kind, CREDMESH_DRAIN_DELAY="60", CREDMESH_DRAIN="0")
    with server.channel() as channel:
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        server.process.terminate()
        wait_until(lambda: health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING)
    stub = server.stub()  # another connection, so the server still listens
    assert stub.GetStock(inventory_pb2.GetStockRequest(sku="tea"), metadata=bearer, timeout=10).left == 1


@pytest.mark.parametrize(
    ("variable", "address", "says"),
    [
        ("CREDMESH_LISTEN", "127.0.0.1:70000", "a port is from 0 to 65535"),
        ("CREDMESH_LISTEN", "127.0.0.1", "is not host:port"),
        ("CREDMESH_LISTEN", "unix:", "names no socket"),
        ("CREDMESH_METRICS", "127.0.0.1:65536", "a port is from 0 to 65535"),
    ],
)
def test_an_address_that_grpc_would_misread_is_refused(
    kind: str, launch: Launch, variable: str, address: str, says: str
) -> None:
    server = launch(kind, **{variable: address})
    assert server.process.wait(30)
    assert server.process.exit_code == 2
    assert server.said(says)
    assert server.said(variable)


def test_a_unix_socket_is_served_and_not_taken_over(
    kind: str, launch: Launch, bearer: Metadata, tmp_path: Path
) -> None:
    address = f"unix:{tmp_path}/inventory.sock"
    first = launch(kind, CREDMESH_LISTEN=address)
    wait_until(lambda: first.said("listens"))
    second = launch(kind, CREDMESH_LISTEN=address)
    assert second.process.wait(30)
    assert second.process.exit_code == 1
    assert second.said("another process serves it")
    with grpc.insecure_channel(address) as channel:
        answer = InventoryServiceStub(channel).GetStock(
            inventory_pb2.GetStockRequest(sku="tea"), metadata=bearer, timeout=10
        )
        assert answer.left == 1
    first.process.kill()
    assert first.process.wait(30)
    third = launch(kind, CREDMESH_LISTEN=address)
    wait_until(lambda: third.said("listens"), what="the socket that was left behind is replaced")


def test_a_unix_socket_in_a_folder_that_does_not_exist_is_named(kind: str, launch: Launch, tmp_path: Path) -> None:
    server = launch(kind, CREDMESH_LISTEN=f"unix:{tmp_path}/nowhere/inventory.sock")
    assert server.process.wait(30)
    assert server.process.exit_code == 1
    assert server.said(f"{tmp_path}/nowhere is not a folder")
