"""A node keeps its trust bundle up to date, and its freshness is never better than the truth."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from credmesh.store.v1 import mesh_pb2
from interceptors import EtcdSettings, MeshNode, MeshSettings, NotReady, Reason, Refusal
from interceptors.clock import ticks
from interceptors.etcd.client import Delete, EtcdClient, EtcdFull, KeyValue, Put
from interceptors.keyspace import Layout, beacon_update
from interceptors.node.metrics import NodeCollector
from interceptors.scopes import subject_scope
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd.proxy import Proxy
from tests.support.probe.clients import bearer, make_client
from tests.support.probe.issuer import ISSUER, Issuer
from tests.support.probe.servers import ProbeServer
from tests.support.waiting import free_port, wait_until


@pytest.fixture
def issuer(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> Issuer:
    return Issuer(etcd_client, etcd_settings.prefix)


def settings(etcd: EtcdSettings, **changes: object) -> MeshSettings:
    return MeshSettings(etcd=etcd, service="probe", issuer=ISSUER, **{"node_lease": 2, **changes})  # type: ignore[arg-type]


def entry(client: EtcdClient, key: str) -> KeyValue:
    """Waits until a key exists, and returns its value."""
    wait_until(lambda: client.read(key).values, what=key)
    return client.read(key).values[key]


def test_a_node_is_registered_until_it_stops(etcd_settings: EtcdSettings, etcd_client: EtcdClient) -> None:
    layout = Layout(etcd_settings.prefix)
    with MeshNode(settings(etcd_settings, address="10.0.0.1:1"), node_id="node/1") as node:
        found = etcd_client.read(layout.node(node.id)).values[layout.node("node/1")]
        record = mesh_pb2.NodeRecord.FromString(found.value)
        assert (record.node_id, record.service, record.address) == ("node/1", "probe", "10.0.0.1:1")
        assert found.lease
    assert not etcd_client.read_prefix(layout.nodes).values


def test_start_returns_when_strict_methods_are_served(
    etcd_settings: EtcdSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread reads the bundle, and another one, which may be slower, makes the first proof."""
    node = MeshNode(settings(etcd_settings))
    add_proof, may_prove = node.bundle.add_proof, threading.Event()

    def late(*found: Any) -> None:
        may_prove.wait(20)
        add_proof(*found)

    monkeypatch.setattr(node.bundle, "add_proof", late)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(node.start)
        try:
            wait_until(lambda: node.ready)
            with pytest.raises(TimeoutError):
                starting.result(0.5)
            may_prove.set()
            starting.result(20)
            assert node.freshness_age() is not None
        finally:
            may_prove.set()
            node.stop()


def test_a_node_whose_acknowledgements_are_refused_stays_fresh_and_retries(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full etcd answers reads and refuses writes."""
    layout = Layout(etcd_settings.prefix)
    barriers = [layout.barrier(f"b{number}") for number in range(3)]
    ages: list[float] = []
    with MeshNode(settings(etcd_settings)) as node:
        real = node._client.commit

        def full(*_: Any, **__: Any) -> int:
            ages.append(node.freshness_age() or 0.0)
            raise EtcdFull("etcd's database has reached its quota")

        monkeypatch.setattr(node._client, "commit", full)
        etcd_client.commit([], [*(Put(barrier, b"") for barrier in barriers), beacon_update(layout)])
        wait_until(lambda: len(ages) >= 15, 30, "five rounds of refusals")
        assert max(ages) < 2.5
        monkeypatch.setattr(node._client, "commit", real)
        acks = [layout.ack(f"b{number}", node.id) for number in range(3)]
        wait_until(lambda: len(etcd_client.read(*acks).values) == 3, what="the acknowledgements")


def test_a_node_that_cannot_prove_its_freshness_starts_with_a_warning(
    etcd_settings: EtcdSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = MeshNode(settings(etcd_settings))
    monkeypatch.setattr(node.bundle, "add_proof", lambda *_: None)
    try:
        node.start(strict_timeout=0.1)
        assert node.ready
        assert "could not prove its freshness" in caplog.text
    finally:
        node.stop()


def test_a_node_that_is_interrupted_while_it_starts_is_deregistered(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient
) -> None:
    """It registers before it reads the bundle, and every barrier would wait for it."""
    layout = Layout(etcd_settings.prefix)
    registered: list[int] = []
    # So long that the record cannot vanish with its lease.
    node = MeshNode(settings(etcd_settings, node_lease=60))

    def interrupt(_snapshot: object) -> None:
        registered.append(etcd_client.count(layout.nodes))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    node._mirror._on_snapshot = interrupt
    # Other tests, or the parent process, may have set another handler, or none.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            node.__enter__()
    finally:
        signal.signal(signal.SIGINT, before)
    assert registered == [1]
    assert etcd_client.count(layout.nodes) == 0


def test_a_node_is_registered_before_it_is_ready(etcd_settings: EtcdSettings, etcd_client: EtcdClient) -> None:
    """A barrier must wait for every node that may already serve calls."""
    layout = Layout(etcd_settings.prefix)
    seen: list[int] = []
    node = MeshNode(settings(etcd_settings))
    on_snapshot = node._mirror._on_snapshot

    def spy(snapshot: object) -> None:
        seen.append(etcd_client.count(layout.nodes))
        on_snapshot(snapshot)  # type: ignore[arg-type]

    node._mirror._on_snapshot = spy
    with node:
        assert seen == [1]


def test_two_nodes_of_a_service_have_different_ids(etcd_settings: EtcdSettings) -> None:
    assert MeshNode(settings(etcd_settings)).id != MeshNode(settings(etcd_settings)).id


def test_a_barrier_is_acknowledged_by_every_node_with_its_revision(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient
) -> None:
    layout = Layout(etcd_settings.prefix)
    first = etcd_client.commit([], [Put(layout.barrier("early"), mesh_pb2.Barrier(format=1).SerializeToString())])
    with MeshNode(settings(etcd_settings), node_id="a"), MeshNode(settings(etcd_settings), node_id="b"):
        second = etcd_client.commit([], [Put(layout.barrier("late"), mesh_pb2.Barrier(format=1).SerializeToString())])
        for barrier, revision in (("early", first), ("late", second)):
            for node in "ab":
                found = entry(etcd_client, layout.ack(barrier, node))
                assert mesh_pb2.Ack.FromString(found.value).revision == revision
    # A node's acknowledgements vanish with it, since it no longer serves calls.
    assert not etcd_client.read_prefix(layout.acks).values


def test_a_node_whose_record_vanished_registers_and_acknowledges_again(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient
) -> None:
    layout = Layout(etcd_settings.prefix)
    etcd_client.commit([], [Put(layout.barrier("b"), mesh_pb2.Barrier(format=1).SerializeToString())])
    with MeshNode(settings(etcd_settings), node_id="a"):
        key, ack = layout.node("a"), layout.ack("b", "a")
        old, record = entry(etcd_client, ack), entry(etcd_client, key)
        etcd_client.revoke_lease(record.lease)
        assert entry(etcd_client, key).lease != record.lease
        assert entry(etcd_client, ack).mod_revision > old.mod_revision


def test_freshness_is_proven_on_an_idle_mesh_and_on_a_busy_one(etcd_settings: EtcdSettings, issuer: Issuer) -> None:
    with MeshNode(settings(etcd_settings)) as node:
        wait_until(lambda: node.freshness_age() is not None)
        before = node.bundle.proven_at
        wait_until(lambda: node.bundle.proven_at != before)
        revision = issuer.revoke(subject_scope("alice"))
        after = ticks()
        wait_until(lambda: (node.bundle.proven_at or 0) > after)
        assert node.bundle.revision >= revision


def test_a_proof_counts_only_after_the_watch_has_applied_its_revision(
    etcd_settings: EtcdSettings, issuer: Issuer
) -> None:
    """A freshness that rested on the read alone would be wrong: the read is current, but the bundle is not."""
    with MeshNode(settings(etcd_settings)) as node:
        wait_until(lambda: node.freshness_age() is not None)
        node._mirror.stop()
        issuer.revoke(subject_scope("alice"))
        stopped = ticks()
        deadline = stopped + 2.5  # two rounds of proofs
        wait_until(lambda: ticks() > deadline)
        assert node.bundle.proven_at is not None
        assert node.bundle.proven_at <= stopped


def test_a_node_that_cannot_reach_etcd_says_what_to_check() -> None:
    etcd = EtcdSettings(endpoints=(f"127.0.0.1:{free_port()}",), timeout=0.5)
    node = MeshNode(settings(etcd))
    with pytest.raises(NotReady, match="ETCD_ENDPOINTS"):
        node.start(timeout=0.2)
    with pytest.raises(Refusal) as caught:
        node.verify("x.y.z")
    assert caught.value.reason is Reason.MESH_NOT_READY
    node.stop()


def test_without_etcd_methods_follow_their_rules_and_recover_by_themselves(
    own_etcd: EtcdProcess, own_node: MeshNode, own_issuer: Issuer
) -> None:
    with ProbeServer(own_node, "sync") as server, make_client("sync", server.target) as client:
        token = own_issuer.token()

        def reason(method: str) -> Reason | None:
            return client.call(method, "who", metadata=bearer(token)).reason

        wait_until(lambda: reason("Fresh") is None)
        stream = client.open("Following", "hold", metadata=bearer(token), timeout=60)
        assert stream.next() == "held"
        own_etcd.kill()
        wait_until(lambda: reason("Fresh") is Reason.MESH_STALE, timeout=10)
        assert reason("Unary") is None
        assert len(own_node.streams) == 1
        own_etcd.start()
        wait_until(lambda: reason("Fresh") is None, timeout=20)
        # And it receives revocations again.
        own_issuer.revoke(subject_scope("alice"))
        assert stream.end().reason is Reason.CREDENTIAL_REVOKED
        wait_until(lambda: reason("Unary") is Reason.CREDENTIAL_REVOKED)
        layout = own_issuer.layout
        wait_until(lambda: own_issuer.client.count(layout.nodes) == 1)


def test_foreign_and_newer_values_are_skipped_and_logged(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    layout = Layout(etcd_settings.prefix)
    newer = mesh_pb2.VerificationKey(format=99, kid="newer").SerializeToString()
    etcd_client.commit(
        [],
        [
            Put(layout.key("foreign"), b"\xff\xfe not a record"),
            Put(layout.key("newer"), newer),
            Put(layout.mesh + "unheard-of", b"x"),
            Put(layout.epoch("unheard-of/x"), b"\xff"),
        ],
    )
    with MeshNode(settings(etcd_settings)) as node:
        assert set(node.bundle.keys) == {issuer.kid}
        assert node.verify(issuer.token()).subject == "alice"
        # An epoch whose value this code cannot read revokes too: in doubt, refuse.
        token = issuer.token()
        revision = etcd_client.commit([], [Put(layout.epoch(subject_scope("alice")), b"\xff newer")])
        wait_until(lambda: node.bundle.revision >= (revision or 0))
        with pytest.raises(Refusal):
            node.verify(token)
        etcd_client.commit([], [Put(layout.key(issuer.kid), b"overwritten"), beacon_update(layout)])
        wait_until(lambda: not node.bundle.keys)
    assert any("foreign" in record.getMessage() for record in caplog.records)
    assert any("newer" in record.getMessage() for record in caplog.records)


def test_an_epoch_whose_lease_has_expired_is_dropped(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient, issuer: Issuer
) -> None:
    with MeshNode(settings(etcd_settings)) as node:
        issuer.revoke(subject_scope("alice"))
        wait_until(lambda: len(node.bundle.epochs) == 1)
        etcd_client.commit([], [Delete(issuer.layout.epoch(subject_scope("alice")))])
        wait_until(lambda: len(node.bundle.epochs) == 0)


def test_verify_returns_the_caller_and_checks_a_given_audience(etcd_settings: EtcdSettings, issuer: Issuer) -> None:
    with MeshNode(settings(etcd_settings)) as node:
        assert node.verify(issuer.token(sub="bob"), audience="probe").subject == "bob"
        for credential, audience, reason in (
            (issuer.token(), "orders", Reason.AUDIENCE_MISMATCH),
            ("x" * 5000, None, Reason.CREDENTIAL_TOO_LARGE),
            ("é", None, Reason.CREDENTIAL_MALFORMED),
            ("", None, Reason.CREDENTIAL_MALFORMED),
        ):
            with pytest.raises(Refusal) as caught:
                node.verify(credential, audience=audience)
            assert caught.value.reason is reason


def test_the_metrics_are_exported(etcd_settings: EtcdSettings, issuer: Issuer) -> None:
    with MeshNode(settings(etcd_settings)) as node, ProbeServer(node, "sync") as server:
        with make_client("sync", server.target) as client:
            assert client.call("Unary", "who", metadata=bearer(issuer.token())).answers == ("alice",)
            client.call("Unary", "who")
        registry = CollectorRegistry()
        registry.register(NodeCollector(node))
        text = generate_latest(registry).decode()
    method = 'method="/credmesh.probe.v1.Probe/Unary"'
    assert f"credmesh_calls_accepted_total{{{method}}} 1.0" in text
    assert f'credmesh_calls_refused_total{{{method},reason="CREDENTIAL_MISSING"}} 1.0' in text
    assert "credmesh_verification_keys 1.0" in text
    assert "credmesh_ready 1.0" in text


def test_a_key_whose_lookup_failed_is_not_taken_for_absent(
    own_etcd: EtcdProcess, own_node: MeshNode, own_issuer: Issuer
) -> None:
    wait_until(lambda: own_node.connected)
    own_issuer.rotate(publish=False)
    token = own_issuer.token()
    own_etcd.kill()
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(Refusal, match="could not be looked up in etcd") as refused:
            own_node.verify(token)
        assert refused.value.reason is Reason.KEY_UNKNOWN
        assert time.monotonic() - begun < 3  # a caller waits only briefly
    own_etcd.start()
    with pytest.raises(Refusal, match="is unknown"):
        wait_until(lambda: _is_looked_up(own_node, token))


def _is_looked_up(node: MeshNode, token: str) -> bool:
    """Returns False while a token's key cannot be looked up. Raises Refusal if etcd does not have it."""
    try:
        node.verify(token)
    except Refusal as refusal:
        if "could not be looked up" not in str(refusal):
            raise
    return False


def test_a_flood_of_invented_kids_does_not_become_one_of_etcd_reads(
    etcd_settings: EtcdSettings, issuer: Issuer
) -> None:
    with MeshNode(settings(etcd_settings)) as node:
        asked: list[str] = []
        fetch: Callable[[str], None] = node.lookups._fetch_key

        def counting(kid: str) -> None:
            asked.append(kid)
            fetch(kid)

        node.lookups._fetch_key = counting
        begin = time.monotonic()
        for number in range(300):
            with pytest.raises(Refusal):
                node.verify(issuer.token(header={"kid": f"invented-{number}"}))
        # Ten at once, and five per second after that.
        assert len(asked) <= 11 + 5 * (time.monotonic() - begin)
        # Valid tokens are accepted meanwhile.
        assert node.verify(issuer.token()).subject == "alice"


def test_a_watch_that_hangs_without_an_error_is_replaced(
    own_etcd: EtcdProcess, own_settings: EtcdSettings, own_issuer: Issuer
) -> None:
    """Reads use another connection and succeed. gRPC's keepalives need four seconds to detect the dead watch."""
    with Proxy(own_etcd.endpoint) as proxy:
        node = MeshNode(settings(own_settings))
        node._mirror._client.close()
        node._mirror._client = EtcdClient(replace(own_settings, endpoints=(proxy.endpoint, own_etcd.endpoint)))
        with node:
            wait_until(lambda: node.connected)
            proxy.answers.clear()
            revision = own_issuer.revoke(subject_scope("alice"))
            wait_until(lambda: node.bundle.revision >= revision, timeout=3.7)
