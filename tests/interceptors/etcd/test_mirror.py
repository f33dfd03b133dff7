"""Mirroring a prefix: no change is lost, no transaction is split, and the mirror recovers from every failure."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from interceptors.etcd import channels
from interceptors.etcd.client import Delete, EtcdClient, EtcdUnavailable, Put, Snapshot
from interceptors.etcd.mirror import Event, Mirror, change_notifier
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd.follower import compact, following
from tests.support.etcd.proxy import Proxy
from tests.support.waiting import free_port, wait_until


@pytest.fixture
def proxy(etcd: EtcdProcess) -> Iterator[Proxy]:
    """A proxy before the shared etcd."""
    with Proxy(etcd.endpoint) as proxy:
        yield proxy


def _values(client: EtcdClient, settings: EtcdSettings) -> dict[str, bytes]:
    return {key: entry.value for key, entry in client.read_prefix(settings.prefix).values.items()}


def test_nothing_is_lost_between_the_read_and_the_watch(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    """Writers go on while mirrors start. Each mirror must bring every revision after the one that it read."""
    stop = threading.Event()
    revisions: list[int] = []

    def write(name: str) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            revision = etcd_client.commit([], [Put(f"{etcd_settings.prefix}{name}/{count % 50}", b"%d" % count)])
            assert revision is not None
            revisions.append(revision)

    writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    followed: list[tuple[int, list[int]]] = []
    try:
        for _ in range(5):
            with following(etcd_settings) as follower:
                wait_until(lambda follower=follower: len(follower.events) > 20)  # type: ignore[misc]
                (snapshot,) = follower.snapshots
                followed.append((snapshot.revision, [event.mod_revision for event in list(follower.events)]))
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    # Compared only now: a writer notes a revision after its commit, so a list of running writers can lack some.
    for read_revision, seen in followed:
        assert seen == sorted(revision for revision in revisions if read_revision < revision <= seen[-1])
    with following(etcd_settings) as follower:
        assert follower.mirror.wait_ready(5)
        assert follower.values == _values(etcd_client, etcd_settings)


def test_a_revision_is_never_split(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    """Half a transaction is never delivered: not live, and not when the mirror catches up in etcd's batches."""
    keys = [f"{etcd_settings.prefix}{number}" for number in range(10)]

    def write(count: int) -> None:
        etcd_client.commit([], [Put(key, b"%d" % count) for key in keys])

    def whole(values: dict[str, bytes]) -> None:
        assert len(set(values.values())) <= 1, "half a transaction was delivered"

    with following(etcd_settings, whole) as follower:
        assert follower.mirror.wait_ready(5)
        for count in range(100):
            write(count)
        wait_until(lambda: follower.values.get(keys[0]) == b"99")
        # The mirror falls behind by more than the 1000 revisions that etcd sends at once, then resumes.
        follower.gate.clear()
        write(100)
        follower.waits.wait(5)
        for count in range(101, 1301):
            write(count)
        follower.mirror.reconnect()
        follower.gate.set()
        wait_until(lambda: follower.values.get(keys[0]) == b"1300")
    assert follower.failures == []
    assert len(follower.snapshots) == 1
    assert follower.mirror.reconnects == 1
    assert len(follower.events) == 1301 * len(keys)


def test_deletions_and_expired_leases_are_events(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    prefix = etcd_settings.prefix
    lease = etcd_client.grant(60)
    etcd_client.commit([], [Put(prefix + "a", b"1"), Put(prefix + "b", b"2"), Put(prefix + "c", b"3", lease)])
    with following(etcd_settings) as follower:
        assert follower.mirror.wait_ready(5)
        deleted = etcd_client.commit([], [Delete(prefix + "a")])
        assert deleted is not None
        etcd_client.revoke_lease(lease)
        wait_until(lambda: follower.values == {prefix + "b": b"2"})
    assert follower.events[0] == Event(prefix + "a", None, deleted)
    assert follower.revision == follower.events[-1].mod_revision > deleted


def test_only_the_prefix_is_mirrored(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    inside = replace(etcd_settings, prefix=etcd_settings.prefix + "mesh/")
    outside = [etcd_settings.prefix + name for name in ("mesh", "mesh0", "mesg/z", "auth/x")]
    with following(inside) as follower:
        assert follower.mirror.wait_ready(5)
        etcd_client.commit([], [Put(key, b"") for key in outside])
        etcd_client.commit([], [Put(inside.prefix + "x", b"1")])
        wait_until(lambda: follower.values)
    assert [event.key for event in follower.events] == [inside.prefix + "x"]


def test_after_a_crash_of_etcd_the_watch_is_resumed_without_a_read(own_etcd: EtcdProcess) -> None:
    settings = own_etcd.settings("/test/")
    with EtcdClient(settings) as client, following(settings) as follower:
        assert follower.mirror.wait_ready(5)
        client.commit([], [Put("/test/a", b"1")])
        wait_until(lambda: follower.values)
        assert follower.mirror.connected
        own_etcd.kill()
        wait_until(lambda: not follower.mirror.connected, what="the mirror to notice")
        own_etcd.start()
        client.commit([], [Put("/test/b", b"2")])
        wait_until(lambda: follower.values == {"/test/a": b"1", "/test/b": b"2"})
        assert follower.mirror.connected
        assert follower.mirror.reconnects >= 1
    assert len(follower.snapshots) == 1
    assert not follower.mirror.connected


def test_changes_during_a_disconnect_are_delivered_after_it(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings, proxy: Proxy
) -> None:
    prefix = etcd_settings.prefix
    with following(replace(etcd_settings, endpoints=(proxy.endpoint,))) as follower:
        assert follower.mirror.wait_ready(5)
        wait_until(lambda: follower.mirror.connected)
        proxy.cut()
        etcd_client.commit([], [Put(prefix + "a", b"1")])
        etcd_client.commit([], [Put(prefix + "a", b"2"), Put(prefix + "b", b"2")])
        etcd_client.commit([], [Delete(prefix + "a")])
        proxy.mend()
        wait_until(lambda: follower.values == {prefix + "b": b"2"})
    assert len(follower.snapshots) == 1
    assert [event.value for event in follower.events] == [b"1", b"2", b"2", None]


def test_after_a_compaction_during_a_disconnect_the_prefix_is_read_again(own_etcd: EtcdProcess) -> None:
    settings = own_etcd.settings("/test/")
    with Proxy(own_etcd.endpoint) as proxy, EtcdClient(settings) as client:
        client.commit([], [Put("/test/a", b"1"), Put("/test/b", b"1")])
        with following(replace(settings, endpoints=(proxy.endpoint,))) as follower:
            assert follower.mirror.wait_ready(5)
            wait_until(lambda: follower.mirror.connected)
            proxy.cut()
            client.commit([], [Delete("/test/a")])
            revision = client.commit([], [Put("/test/b", b"2")])
            assert revision is not None
            compact(settings, revision)
            proxy.mend()
            wait_until(lambda: follower.values == {"/test/b": b"2"})
            # The mirror goes on from there.
            client.commit([], [Put("/test/c", b"3")])
            wait_until(lambda: "/test/c" in follower.values)
    assert [snapshot.revision for snapshot in follower.snapshots[1:]] == [revision]


def test_a_half_dead_connection_is_detected_and_replaced(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer vanishes without closing the connection, so only keepalives detect it. Here they are sent sooner."""
    hurried = {
        "grpc.keepalive_time_ms": 500,
        "grpc.keepalive_timeout_ms": 300,
        "grpc.http2.ping_timeout_ms": 300,
    }
    options = tuple((name, hurried.get(name, value)) for name, value in channels._OPTIONS)
    assert hurried.keys() <= dict(channels._OPTIONS).keys()
    monkeypatch.setattr(channels, "_OPTIONS", options)
    endpoints = (proxy.endpoint, etcd_settings.endpoints[0])
    with following(replace(etcd_settings, endpoints=endpoints, timeout=1)) as follower:
        wait_until(lambda: follower.mirror.connected)
        proxy.answers.clear()
        proxy.requests.clear()
        etcd_client.commit([], [Put(etcd_settings.prefix + "a", b"1")])
        wait_until(lambda: follower.values, what="the event by way of the other endpoint")
    assert follower.mirror.reconnects == 1


def test_a_dead_endpoint_among_several_does_no_harm(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    endpoints = (f"127.0.0.1:{free_port()}", etcd_settings.endpoints[0])
    with following(replace(etcd_settings, endpoints=endpoints)) as follower:
        assert follower.mirror.wait_ready(2)
        etcd_client.commit([], [Put(etcd_settings.prefix + "a", b"1")])
        wait_until(lambda: follower.values)


def test_a_mirror_waits_for_an_absent_etcd_with_one_warning(
    own_etcd: EtcdProcess, caplog: pytest.LogCaptureFixture
) -> None:
    own_etcd.stop()
    settings = own_etcd.settings("/test/", timeout=0.2)
    with caplog.at_level(logging.INFO, "credmesh.etcd"), following(settings) as follower:
        wait_until(lambda: caplog.records)
        assert not follower.mirror.wait_ready(1)
        assert not follower.mirror.connected
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING
        assert f"etcd at {own_etcd.endpoint} does not answer" in warning.getMessage()
        assert warning.getMessage().endswith("waiting")
        own_etcd.start()
        assert follower.mirror.wait_ready(10)
        wait_until(lambda: len(caplog.records) == 2)
        assert caplog.records[1].levelno == logging.INFO
        assert f"etcd at {own_etcd.endpoint} answers again" in caplog.records[1].getMessage()


def test_foreign_keys_and_values_are_delivered_like_all_others(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    foreign = etcd_settings.prefix + b"\xff\x00".decode("utf-8", "surrogateescape")
    etcd_client.commit([], [Put(foreign, b"\xff\xfe")])
    with following(etcd_settings) as follower:
        assert follower.mirror.wait_ready(5)
        assert follower.values == {foreign: b"\xff\xfe"}
        etcd_client.commit([], [Put(foreign, b"\xfd"), Put(etcd_settings.prefix + "ours", b"1")])
        wait_until(lambda: follower.values == {foreign: b"\xfd", etcd_settings.prefix + "ours": b"1"})
    assert len(follower.snapshots) == 1


@pytest.mark.parametrize("kind", [RuntimeError, EtcdUnavailable])
def test_after_an_exception_in_a_callback_the_prefix_is_read_again(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    """Also after EtcdUnavailable from a callback's own request: the watch did not fail."""
    key = etcd_settings.prefix + "key"
    bad = [b"1"]

    def dislike(values: dict[str, bytes]) -> None:
        if values.get(key) in bad:
            bad.clear()
            raise kind("cannot digest this")

    with following(etcd_settings, dislike) as follower:
        assert follower.mirror.wait_ready(5)
        etcd_client.commit([], [Put(key, b"1")])
        wait_until(lambda: len(follower.snapshots) == 2)
        assert follower.snapshots[1].values[key].value == b"1"
        etcd_client.commit([], [Put(key, b"2")])
        wait_until(lambda: follower.values == {key: b"2"})
    assert "cannot digest this" in caplog.text


def test_a_mirror_is_ready_only_after_its_first_snapshot_was_processed(etcd_settings: EtcdSettings) -> None:
    ready_too_early: list[bool] = []
    mirror: Mirror

    def on_snapshot(snapshot: Snapshot) -> None:
        ready_too_early.append(mirror.wait_ready(0))

    def on_events(events: Sequence[Event], revision: int) -> None:
        raise AssertionError("nothing was written")

    mirror = Mirror(etcd_settings, etcd_settings.prefix, on_snapshot=on_snapshot, on_events=on_events, name="test")
    mirror.start()
    assert mirror.wait_ready(5)
    mirror.stop()
    assert ready_too_early == [False]


def test_after_stop_no_thread_and_no_callback_runs(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    with following(etcd_settings) as follower:
        wait_until(lambda: follower.mirror.connected)
        follower.mirror.stop()
        assert not [thread for thread in threading.enumerate() if thread.name == "etcd-mirror-test"]
        etcd_client.commit([], [Put(etcd_settings.prefix + "a", b"1")])
        assert not follower.values
        follower.mirror.stop()


def test_stop_does_not_wait_for_an_etcd_that_does_not_answer(own_etcd: EtcdProcess) -> None:
    own_etcd.kill()
    with following(own_etcd.settings(timeout=60)) as follower:
        stopping = threading.Thread(target=follower.mirror.stop)
        stopping.start()
        stopping.join(5)
        assert not stopping.is_alive()


def test_a_change_notifier_calls_after_the_first_read_and_after_each_change(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    called = threading.Event()
    notifier = change_notifier(etcd_settings, etcd_settings.prefix, called.set, name="test")
    notifier.start()
    try:
        assert called.wait(5)
        wait_until(lambda: notifier.connected)
        for operation in (Put(etcd_settings.prefix + "a", b"1"), Delete(etcd_settings.prefix + "a")):
            called.clear()
            etcd_client.commit([], [operation])
            assert called.wait(5)
    finally:
        notifier.stop()
