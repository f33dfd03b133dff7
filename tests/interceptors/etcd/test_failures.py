"""Requests to an etcd that is down, slow, cut off, or partly down."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from interceptors.errors import SettingsError
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd.proxy import Proxy
from tests.support.waiting import free_port, wait_until


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """An endpoint that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _dead_endpoint() -> str:
    return f"127.0.0.1:{free_port()}"


def _with(settings: EtcdSettings, *endpoints: str, timeout: float = 5) -> EtcdSettings:
    return replace(settings, endpoints=endpoints, timeout=timeout)


def test_without_etcd_a_request_ends_in_time_and_names_the_endpoints(etcd_settings: EtcdSettings) -> None:
    one, other = _dead_endpoint(), _dead_endpoint()
    with EtcdClient(_with(etcd_settings, one, other, timeout=0.5)) as client:
        for request in (lambda: client.read("/a"), lambda: client.commit([], [Put("/a", b"")])):
            begin = time.monotonic()
            with pytest.raises(EtcdUnavailable, match=f"etcd at {one}, {other} does not answer .*refused"):
                request()
            assert 0.4 < time.monotonic() - begin < 2


def test_requests_to_a_silent_endpoint_end_in_time(etcd_settings: EtcdSettings, silent_endpoint: str) -> None:
    with EtcdClient(_with(etcd_settings, silent_endpoint, timeout=0.5)) as client:
        begin = time.monotonic()
        with pytest.raises(EtcdUnavailable, match="does not answer"):
            client.read("/a")
        with pytest.raises(EtcdUnavailable, match="no answer in time"):
            client.watch("/a", 1)
        assert time.monotonic() - begin < 3


def test_dead_and_silent_endpoints_are_skipped(etcd_settings: EtcdSettings, silent_endpoint: str) -> None:
    good = etcd_settings.endpoints[0]
    settings = _with(etcd_settings, _dead_endpoint(), silent_endpoint, f"localhost:{_dead_endpoint()[-5:]}", good)
    key = etcd_settings.prefix + "key"
    with EtcdClient(replace(settings, timeout=2)) as client:
        client.read(key)
        begin = time.monotonic()
        assert client.commit([], [Put(key, b"1")]) is not None
        with client.watch(etcd_settings.prefix, 1) as watch:
            assert [event.key for event in watch.next_events()] == [key]
        # The client remembers the endpoint that answers.
        assert time.monotonic() - begin < 0.5


def test_a_commit_that_was_never_sent_is_tried_at_another_endpoint(etcd_settings: EtcdSettings) -> None:
    key = etcd_settings.prefix + "key"
    with EtcdClient(_with(etcd_settings, _dead_endpoint(), etcd_settings.endpoints[0])) as client:
        assert client.commit([], [Put(key, b"1")]) is not None


def test_a_commit_whose_answer_is_lost_is_not_repeated(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    key = etcd_settings.prefix + "key"
    with Proxy(etcd_settings.endpoints[0]) as proxy:
        again = proxy.endpoint.replace("127.0.0.1", "localhost")
        client = EtcdClient(_with(etcd_settings, proxy.endpoint, again))
        client.read(key)
        proxy.answers.clear()
        failures: list[EtcdUnavailable] = []

        def commit() -> None:
            try:
                client.commit([], [Put(key, b"1")])
            except EtcdUnavailable as error:
                failures.append(error)

        committing = threading.Thread(target=commit)
        committing.start()
        wait_until(lambda: etcd_client.read(key).values, what="the commit to reach etcd")
        proxy.cut()
        proxy.answers.set()
        proxy.mend()
        committing.join()
        # A read is repeated until it is answered.
        entry = client.read(key).values[key]
        client.close()
    assert len(failures) == 1
    assert entry.mod_revision == entry.create_revision


def test_requests_wait_for_an_etcd_that_restarts(own_etcd: EtcdProcess) -> None:
    with EtcdClient(own_etcd.settings(timeout=10)) as client:
        assert client.commit([], [Put("/a", b"1")]) is not None
        own_etcd.kill()
        starting = threading.Thread(target=own_etcd.start)
        starting.start()
        try:
            assert client.read("/a").values["/a"].value == b"1"
        finally:
            starting.join()


def test_after_a_broken_watch_the_next_one_uses_another_endpoint(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    good = etcd_settings.endpoints[0]
    with Proxy(good) as proxy, EtcdClient(_with(etcd_settings, proxy.endpoint, good)) as client:
        with client.watch(etcd_settings.prefix, 1) as watch:
            proxy.cut()
            with pytest.raises(EtcdUnavailable, match=proxy.endpoint):
                watch.next_events()
        with client.watch(etcd_settings.prefix, 1) as watch:
            etcd_client.commit([], [Put(etcd_settings.prefix + "key", b"1")])
            assert [event.value for event in watch.next_events()] == [b"1"]


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("10.0.0.1", "not host:port"),
        (":2379", "not host:port"),
        ("etcd:port", "not host:port"),
        ("etcd:0", "not host:port"),
        ("https://10.0.0.1:2379", "https:// goes with ETCD_CA_FILE"),
    ],
)
def test_an_invalid_endpoint_is_a_settings_error(endpoint: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=f"ETCD_ENDPOINTS.*{problem}.*for example"):
        EtcdClient(EtcdSettings(endpoints=(endpoint,)))


def test_a_missing_ca_file_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"ETCD_CA_FILE=.*ca\.pem cannot be read: No such file"):
        EtcdClient(EtcdSettings(endpoints=("10.0.0.1:2379",), ca_file=tmp_path / "ca.pem"))


def test_endpoints_may_be_urls_names_and_addresses_of_both_kinds(etcd_settings: EtcdSettings) -> None:
    port = etcd_settings.endpoints[0].rpartition(":")[2]
    for endpoint in (f"http://127.0.0.1:{port}", f"localhost:{port}"):
        with EtcdClient(_with(etcd_settings, endpoint)) as client:
            client.read("/a")
    EtcdClient(_with(etcd_settings, "[::1]:2379", "10.0.0.1:2379", "etcd.example:2379")).close()


def test_a_read_that_timed_out_is_not_cancelled_in_etcd(etcd_settings: EtcdSettings) -> None:
    """etcd before 3.5.5 panics if a transaction is cancelled while it executes it. This one executes slowly."""
    answer, seen = threading.Event(), threading.Event()
    left: list[tuple[bool, float]] = []

    def slow(_request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.set()
        answer.wait(20)
        left.append((context.is_active(), context.time_remaining() or 0.0))
        return b""

    server = grpc.server(ThreadPoolExecutor(2))
    handlers: dict[str, Any] = {"Txn": grpc.unary_unary_rpc_method_handler(slow)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("etcdserverpb.KV", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with EtcdClient(_with(etcd_settings, f"127.0.0.1:{port}")) as client:
            with pytest.raises(EtcdUnavailable, match="no answer within"):
                client.read("/a", timeout=0.3)
            assert seen.is_set()
            # The caller has dropped the call, and must not be what keeps it alive.
            gc.collect()
            answer.set()
            wait_until(lambda: left)
            active, remaining = left[0]
            assert active
            assert remaining > 20
    finally:
        answer.set()
        server.stop(None)
