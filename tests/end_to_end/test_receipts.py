"""A receipt names the nodes that enforce a revocation, and a bound for all others. It is never late or wrong."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from credmesh.admin.v1 import keys_pb2, nodes_pb2, sessions_pb2
from credmesh.auth.v1 import auth_pb2
from interceptors import Reason
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.end_to_end.conftest import AUTH_ENVIRON, BOUND
from tests.support.etcd.proxy import Proxy
from tests.support.people import People, applied, lagging, node_receipt, populate
from tests.support.probe.clients import Client, bearer, make_client
from tests.support.probe.process import ProbeProcess
from tests.support.processes import AuthProcess
from tests.support.waiting import wait_until

ALLOWANCE = 1.0
"""Seconds beyond its bound that a receipt may take on a busy machine."""

Start = Callable[..., ProbeProcess]


@pytest.fixture(scope="module")
def own_settings(etcd: EtcdProcess) -> EtcdSettings:
    """The settings of the mesh that this worker's tests share. No test here stops etcd."""
    return replace(etcd.settings(f"/{uuid.uuid4().hex}/"), timeout=1.0)


@pytest.fixture(scope="module")
def secrets(own_settings: EtcdSettings) -> dict[str, str]:
    """Creates the accounts of the mesh, and returns the clients' secrets."""
    return populate(own_settings)


@pytest.fixture(scope="module")
def auth(own_settings: EtcdSettings, secrets: dict[str, str]) -> Iterator[AuthProcess]:
    """The replica."""
    with AuthProcess(own_settings, environ=AUTH_ENVIRON) as replica:
        yield replica


@pytest.fixture
def probe(own_settings: EtcdSettings, auth: AuthProcess) -> Iterator[Start]:
    """A function that starts a probe. The mesh has forgotten the probe when the next test begins."""
    probes: list[ProbeProcess] = []

    def start(kind: str = "sync", *, settings: EtcdSettings = own_settings, **options: Any) -> ProbeProcess:
        probes.append(ProbeProcess(settings, kind, **options))
        return probes[-1].start()

    yield start
    for process in probes:
        process.leave()
        process.kill()
    layout = Layout(own_settings.prefix)
    with EtcdClient(own_settings) as etcd:
        wait_until(lambda: etcd.count(layout.nodes) == 1, what="only the replica is registered")


def accepts(client: Client, method: str, token: str) -> bool:
    """Whether the probe serves a call."""
    return client.call(method, "who", metadata=bearer(token)).code is grpc.StatusCode.OK


@contextmanager
def left(process: ProbeProcess) -> Iterator[ProbeProcess]:
    """A probe that leaves the mesh at the end, while its connection to etcd is still there."""
    try:
        yield process
    finally:
        process.leave()


def test_a_receipt_names_every_node_with_time_streams_and_freshness(people: People, probe: Start) -> None:
    probes = [probe("sync"), probe("aio")]
    alice, bob = people.sign_in(), people.sign_in("bob")
    with make_client("sync", probes[0].target) as one, make_client("sync", probes[1].target) as other:
        alices_streams = [
            client.open("FreshStream", "hold", metadata=bearer(alice.access_token)) for client in (one, one, other)
        ]
        bobs_stream = one.open("ServerStream", "hold", metadata=bearer(bob.access_token))
        for stream in (*alices_streams, bobs_stream):
            assert stream.next() == "held"
        answer = people.revoke(subject="alice")
        receipt = answer.receipt
        # What the receipt says holds when it arrives.
        for client in (one, other):
            assert client.call("Unary", "who", metadata=bearer(alice.access_token)).reason is Reason.CREDENTIAL_REVOKED
        assert all(stream.end().reason is Reason.CREDENTIAL_REVOKED for stream in alices_streams)
        assert accepts(one, "Fresh", bob.access_token)
    assert receipt.complete
    assert receipt.revision == answer.revision
    assert len(receipt.nodes) == 3
    assert applied(receipt) == {node.node_id for node in receipt.nodes} > {probe.node_id for probe in probes}
    assert [node_receipt(receipt, node.node_id).streams_ended for node in probes] == [2, 1]
    assert receipt.streams_ended == 3
    for node in receipt.nodes:
        assert 0 <= node.applied_after.ToMilliseconds() < 1000
        assert 0 <= node.freshness_age.ToMilliseconds() < BOUND * 1000
        assert not node.lease_ended
    assert receipt.longest_freshness.ToSeconds() == BOUND
    # For nodes that are not registered, the bound counts from the commit on.
    assert BOUND - 1 < receipt.strict_in.ToMilliseconds() / 1000 <= BOUND * 1.01
    strict_from = receipt.strict_from.ToNanoseconds() - receipt.committed_at.ToNanoseconds()
    assert BOUND < strict_from / 1e9 < BOUND * 1.02


def test_a_frozen_node_is_named_as_lagging_and_refuses_when_it_wakes(
    people: People, probe: Start, auth: AuthProcess, own_settings: EtcdSettings, etcd: EtcdProcess
) -> None:
    """The process is stopped right after a proof of freshness, with a warm cache.

    It wakes up before it can learn of what it has missed.
    """
    awake = probe("aio")
    token = people.sign_in().access_token
    with (
        Proxy(etcd.endpoint) as proxy,
        left(probe(settings=replace(own_settings, endpoints=(proxy.endpoint,)))) as frozen,
        make_client("sync", frozen.target) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        assert accepts(client, "Fresh", token)
        stream = client.open("FreshStream", "hold", metadata=bearer(token))
        assert stream.next() == "held"
        frozen.freeze()
        proxy.answers.clear()
        begun = time.monotonic()
        receipt = people.revoke(subject="alice").receipt
        took = time.monotonic() - begun
        assert not receipt.complete
        assert lagging(receipt) == {frozen.node_id}
        assert awake.node_id in applied(receipt)
        assert BOUND <= took < BOUND + ALLOWANCE
        assert receipt.strict_in.ToMilliseconds() == 0
        # The calls wait in its socket, and are served at the moment when it wakes.
        calls = [pool.submit(client.call, "Fresh", "who", metadata=bearer(token), timeout=20) for _ in range(8)]
        frozen.thaw()
        assert {call.result().reason for call in calls} == {Reason.MESH_STALE}
        assert stream.end().reason is Reason.MESH_STALE
        proxy.answers.set()
        wait_until(lambda: client.call("Fresh", "who", metadata=bearer(token)).reason is Reason.CREDENTIAL_REVOKED)
        again = people.sign_in().access_token
        wait_until(lambda: accepts(client, "Fresh", again))
    (line,) = [line for line in auth.log(message="receipt") if line["revision"] == receipt.revision]
    assert line["lagging"] == [frozen.node_id]


def test_a_node_that_wakes_with_the_revocation_in_its_socket_refuses_too(people: People, probe: Start) -> None:
    frozen = probe("sync")
    token = people.sign_in().access_token
    with make_client("sync", frozen.target) as client, ThreadPoolExecutor(8) as pool:
        assert accepts(client, "Fresh", token)
        frozen.freeze()
        assert lagging(people.revoke(subject="alice").receipt) == {frozen.node_id}
        calls = [pool.submit(client.call, "Fresh", "who", metadata=bearer(token), timeout=20) for _ in range(8)]
        frozen.thaw()
        assert {call.result().reason for call in calls} <= {Reason.MESH_STALE, Reason.CREDENTIAL_REVOKED}


def test_a_node_cut_off_from_etcd_serves_strict_methods_only_until_the_bound(
    people: People, probe: Start, own_settings: EtcdSettings, etcd: EtcdProcess
) -> None:
    with Proxy(etcd.endpoint) as proxy:
        settings = replace(own_settings, endpoints=(proxy.endpoint,))
        with left(probe(settings=settings)) as cut_off, make_client("sync", cut_off.target) as client:
            token = people.sign_in().access_token
            assert accepts(client, "Fresh", token)
            stream = client.open("FreshStream", "hold", metadata=bearer(token))
            assert stream.next() == "held"
            proxy.cut()
            receipt = people.revoke(subject="alice").receipt
            assert node_receipt(receipt, cut_off.node_id).state != 1
            assert receipt.strict_in.ToMilliseconds() == 0 or node_receipt(receipt, cut_off.node_id).lease_ended
            wait_for_strict_bound(receipt.strict_in.ToMilliseconds() / 1000)
            assert client.call("Fresh", "who", metadata=bearer(token)).reason is Reason.MESH_STALE
            assert stream.end().reason is Reason.MESH_STALE
            # A method without a freshness rule is still served.
            assert accepts(client, "Unary", token)
            proxy.mend()
            wait_until(lambda: client.call("Unary", "who", metadata=bearer(token)).reason is Reason.CREDENTIAL_REVOKED)


def wait_for_strict_bound(seconds: float) -> None:
    """Waits until a receipt's bound has passed."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until)


def test_a_dead_node_is_named_with_its_lease_ended_and_not_waited_for(people: People, probe: Start) -> None:
    dying = probe("sync", environ={"CREDMESH_NODE_LEASE": "2"})
    dying.freeze()
    dying.kill()
    begun = time.monotonic()
    receipt = people.revoke(subject="alice").receipt
    line = node_receipt(receipt, dying.node_id)
    assert line.state != 1
    if line.lease_ended:
        # All registered nodes have applied it.
        assert receipt.complete
        assert receipt.strict_in.ToMilliseconds() > 0 or time.monotonic() - begun >= BOUND
    else:
        assert time.monotonic() - begun >= BOUND


def test_a_node_that_shuts_down_delays_no_receipt(people: People, probe: Start) -> None:
    leaving = probe("aio")
    leaving.freeze()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(people.revoke, subject="alice")
        stopping = pool.submit(leaving.stop)
        leaving.thaw()
        stopping.result()
        begun = time.monotonic()
        receipt = waiting.result()
    assert receipt.receipt.complete
    assert time.monotonic() - begun < BOUND


def test_without_wait_no_node_acknowledges(people: People, probe: Start, own_settings: EtcdSettings) -> None:
    layout = Layout(own_settings.prefix)
    probe()
    with EtcdClient(own_settings) as etcd:
        wait_until(lambda: not etcd.read_prefix(layout.barriers).values)
        wait_until(lambda: not etcd.read_prefix(layout.acks).values)
        answer = people.revoke(subject="alice", wait=False)
        assert not answer.HasField("receipt")
        key = layout.epochs + "sub/alice"
        # The commit put the epoch and the beacon only. No barrier was raised with it, and none after it.
        assert etcd.read(key).values[key].mod_revision == answer.revision
        assert not etcd.read_prefix(layout.barriers).values
        assert not etcd.read_prefix(layout.acks).values


def test_a_receipt_leaves_nothing_behind_in_etcd(people: People, probe: Start, own_settings: EtcdSettings) -> None:
    layout = Layout(own_settings.prefix)
    late = probe()
    late.freeze()
    receipt = people.revoke(subject="alice", wait_at_most={"nanos": 200_000_000}).receipt
    assert lagging(receipt) == {late.node_id}
    with EtcdClient(own_settings) as etcd:
        wait_until(lambda: not etcd.read_prefix(layout.barriers).values)
        late.thaw()  # it learns of the barrier and of its removal
        with make_client("sync", late.target) as client:
            token = people.sign_in().access_token
            wait_until(lambda: accepts(client, "Fresh", token))
        receipt = people.revoke(subject="bob").receipt
        assert late.node_id in applied(receipt)
        wait_until(lambda: not etcd.read_prefix(layout.barriers).values)
        wait_until(lambda: not etcd.read_prefix(layout.acks).values)


def test_a_shorter_wait_gives_a_receipt_of_what_is_known_by_then(people: People, probe: Start) -> None:
    frozen = probe()
    frozen.freeze()
    begun = time.monotonic()
    early = people.revoke(subject="alice", wait_at_most={"nanos": 300_000_000}).receipt
    assert 0.3 <= time.monotonic() - begun < 0.3 + ALLOWANCE
    by_deadline = people.revoke(subject="alice", timeout=1.5).receipt
    for receipt in (early, by_deadline):
        assert lagging(receipt) == {frozen.node_id}
        assert receipt.strict_in.ToMilliseconds() > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"wait_at_most": {"seconds": -1}},
        {"wait_at_most": {"seconds": 0}},
        {"wait_at_most": {"seconds": 4000}},
        {"wait": False, "wait_at_most": {"seconds": 1}},
    ],
)
def test_an_invalid_wait_is_named_and_nothing_is_revoked(
    people: People, auth: AuthProcess, fields: dict[str, Any]
) -> None:
    before = auth.log(message="revoke")
    with pytest.raises(grpc.RpcError) as refused:
        people.revoke(subject="alice", **fields)
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "wait_at_most" in (refused.value.details() or "")
    assert auth.log(message="revoke") == before


def test_ending_a_session_and_revoking_a_key_give_receipts_too(people: People, probe: Start) -> None:
    node = probe("aio")
    alice, bob = people.sign_in(), people.sign_in("bob")
    with make_client("sync", node.target) as client:
        stream = client.open("Following", "hold", metadata=bearer(alice.access_token))
        assert stream.next() == "held"
        kick = people.ask(
            people.sessions.KickSession, sessions_pb2.KickSessionRequest(session_id=alice.session_id, wait=True)
        )
        assert kick.receipt.complete
        assert kick.receipt.revision == kick.revision
        assert node_receipt(kick.receipt, node.node_id).streams_ended == 1
        assert stream.end().reason is Reason.CREDENTIAL_REVOKED
        bobs_stream = client.open("ServerStream", "hold", metadata=bearer(bob.access_token))
        assert bobs_stream.next() == "held"
        (key,) = people.ask(people.keys.ListKeys, keys_pb2.ListKeysRequest()).keys
        revoked = people.ask(people.keys.RevokeKey, keys_pb2.RevokeKeyRequest(kid=key.kid, wait=True))
        assert revoked.receipt.complete
        assert node_receipt(revoked.receipt, node.node_id).streams_ended == 1
        assert bobs_stream.end().reason is Reason.KEY_UNKNOWN
        assert not accepts(client, "Unary", bob.access_token)
        # No user has to sign in again.
        renewed = people.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=bob.refresh_token), timeout=20).credentials
        assert accepts(client, "Unary", renewed.access_token)


def test_nodes_are_listed_with_their_freshness(people: People, probe: Start) -> None:
    well, frozen = probe("aio"), probe("sync")
    frozen.freeze()
    listed = people.ask(people.nodes.ListNodes, nodes_pb2.ListNodesRequest(probe=True)).nodes
    by_id = {node.node_id: node for node in listed}
    assert by_id[well.node_id].acknowledged
    assert 0 <= by_id[well.node_id].freshness_age.ToMilliseconds() < 2500
    assert by_id[well.node_id].longest_freshness.ToSeconds() == 3
    assert not by_id[frozen.node_id].acknowledged
    assert not by_id[frozen.node_id].HasField("freshness_age")
