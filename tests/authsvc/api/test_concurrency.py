"""Long calls occupy a bounded number of the auth service's threads, so that some are left for signing in."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from authsvc.api.key_service import KeyServicer
from authsvc.api.node_service import NodeServicer
from authsvc.api.status_mapping import StatusMappingInterceptor
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.revocation.receipts import Receipts
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc, nodes_pb2, nodes_pb2_grpc
from interceptors.errors import Reason, reason_of
from interceptors.etcd.client import Delete
from interceptors.server import ServerInterceptor
from tests.support.keys import Keys
from tests.support.waiting import wait_until

AT_ONCE = 2


@contextmanager
def served(keys: Keys) -> Iterator[grpc.Channel]:
    """A replica that allows two watches, two waits for a rotation, and two probes."""
    node = keys.node("auth")
    server = grpc.server(ThreadPoolExecutor(16), interceptors=[ServerInterceptor(node), StatusMappingInterceptor()])
    with AckTracker(keys.settings, keys.etcd, keys.layout) as ack_tracker:
        servicer = KeyServicer(
            etcd=keys.etcd,
            layout=keys.layout,
            ack_tracker=ack_tracker,
            receipts=Receipts(keys.etcd, keys.layout, ack_tracker, longest_freshness=2.0),
            revoker=keys.revoker(),
            max_watches=AT_ONCE,
            max_rotation_waits=AT_ONCE,
        )
        keys_pb2_grpc.add_KeyServiceServicer_to_server(servicer, server)
        nodes = NodeServicer(
            etcd=keys.etcd, layout=keys.layout, ack_tracker=ack_tracker, probe_timeout=1.0, max_probes=AT_ONCE
        )
        nodes_pb2_grpc.add_NodeServiceServicer_to_server(nodes, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            server.stop(None).wait()


@pytest.fixture
def channel(keys: Keys) -> Iterator[grpc.Channel]:
    """A channel to the replica, which leads; a first key signs."""
    with served(keys) as channel:
        keys.leader()
        keys.wait_for_signing()
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> keys_pb2_grpc.KeyServiceStub:
    return keys_pb2_grpc.KeyServiceStub(channel)


def bearer(keys: Keys) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {keys.token()}"),)


def _reason(error: Any) -> Reason | None:
    return reason_of(error.trailing_metadata())


def test_watches_are_limited_and_use_no_slot_of_rotation_waits(stub: keys_pb2_grpc.KeyServiceStub, keys: Keys) -> None:
    def watch() -> Any:
        return stub.WatchKeys(keys_pb2.WatchKeysRequest(), metadata=bearer(keys), timeout=60)

    watches = [watch() for _ in range(AT_ONCE)]
    for one in watches:
        next(one)
    with pytest.raises(grpc.RpcError) as refused:
        next(watch())
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _reason(refused.value) is Reason.RATE_LIMITED
    assert "poll ListKeys instead" in (refused.value.details() or "")
    # Listing and rotating are not limited by the watches.
    assert stub.ListKeys(keys_pb2.ListKeysRequest(), metadata=bearer(keys), timeout=10).keys
    assert stub.RotateKeys(keys_pb2.RotateKeysRequest(wait=True), metadata=bearer(keys), timeout=10).key.kid
    for one in watches:
        one.cancel()
    assert wait_until(lambda: _first(watch()))


def _first(watch: Any) -> keys_pb2.WatchKeysResponse | None:
    try:
        answer: keys_pb2.WatchKeysResponse = next(watch)
    except grpc.RpcError:
        return None
    watch.cancel()
    return answer


def test_waits_for_a_rotation_are_limited(stub: keys_pb2_grpc.KeyServiceStub, keys: Keys) -> None:
    silent = keys.silent_node()
    wait = keys_pb2.RotateKeysRequest(wait=True)
    calls = [stub.RotateKeys.future(wait, metadata=bearer(keys), timeout=60) for _ in range(AT_ONCE + 1)]
    refused = wait_until(lambda: [one for one in calls if one.done()])
    assert [one.code() for one in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert _reason(refused[0]) is Reason.RATE_LIMITED
    assert "request one without wait" in (refused[0].details() or "")
    # As the refusal says, a request without wait is still answered.
    assert stub.RotateKeys(keys_pb2.RotateKeysRequest(), metadata=bearer(keys), timeout=10).key.kid
    keys.etcd.commit([], [Delete(silent)])
    waiting = [one for one in calls if one not in refused]
    assert len({one.result(timeout=30).key.kid for one in waiting}) == 1
    assert stub.RotateKeys(wait, metadata=bearer(keys), timeout=10).key.kid


def test_probes_of_the_nodes_are_limited(channel: grpc.Channel, keys: Keys) -> None:
    """With a silent node each probe takes its whole timeout, and each waits for the probes before it."""
    keys.silent_node()
    stub = nodes_pb2_grpc.NodeServiceStub(channel)
    probe = nodes_pb2.ListNodesRequest(probe=True)
    probing = [stub.ListNodes.future(probe, metadata=bearer(keys), timeout=60) for _ in range(AT_ONCE + 1)]
    codes = sorted(one.code().name for one in probing)
    assert codes == ["OK"] * AT_ONCE + ["RESOURCE_EXHAUSTED"]
    assert any("list without probe" in (one.details() or "") for one in probing)
    assert len(stub.ListNodes(probe, metadata=bearer(keys), timeout=10).nodes) == 2
