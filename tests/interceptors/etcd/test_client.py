"""Requests to a healthy etcd."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from interceptors.etcd import client as client_module
from interceptors.etcd.client import (
    Compacted,
    CreatedAt,
    Delete,
    EtcdClient,
    EtcdRefused,
    EtcdUnavailable,
    LeaseNotFound,
    NoneSince,
    Present,
    Put,
    RevisionNotReached,
    Transaction,
    Unchanged,
    UnderLease,
    UnwrittenSince,
)
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd.follower import compact
from tests.support.waiting import wait_until


def test_a_read_returns_all_keys_as_of_one_revision(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    a, b = etcd_settings.prefix + "a", etcd_settings.prefix + "b"
    stop = threading.Event()
    with EtcdClient(etcd_settings) as other:

        def write() -> None:
            count = 0
            while not stop.is_set():
                count += 1
                value = str(count).encode()
                other.commit([], [Put(a, value), Put(b, value)])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            wait_until(lambda: etcd_client.read(a).values)
            for _ in range(100):
                seen = etcd_client.read(a, b)
                assert seen.values[a].value == seen.values[b].value
                assert seen.values[a].mod_revision == seen.values[b].mod_revision <= seen.revision
        finally:
            stop.set()
            writer.join()


def test_a_read_returns_only_keys_that_exist(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    key = etcd_settings.prefix + "there"
    revision = etcd_client.commit([], [Put(key, b"value")])
    seen = etcd_client.read(key, etcd_settings.prefix + "absent")
    assert list(seen.values) == [key]
    entry = seen.values[key]
    assert (entry.value, entry.mod_revision, entry.create_revision, entry.lease) == (b"value", revision, revision, 0)
    assert seen.cluster_id != 0


def test_a_request_that_etcd_would_answer_without_a_quorum_is_not_sent(etcd_client: EtcdClient) -> None:
    with pytest.raises(ValueError, match="at least one key"):
        etcd_client.read()
    with pytest.raises(ValueError, match="at least one operation"):
        etcd_client.commit([Unchanged("/a", 0)], [])


def test_a_commit_happens_only_if_all_conditions_hold(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    key, fence = etcd_settings.prefix + "key", etcd_settings.prefix + "fence"
    created = etcd_client.commit([Unchanged(key, 0), Unchanged(fence, 0)], [Put(key, b"1"), Put(fence, b"")])
    assert created is not None
    assert etcd_client.commit([Unchanged(key, 0)], [Put(key, b"no")]) is None
    written = etcd_client.commit([Unchanged(key, created), CreatedAt(fence, created)], [Put(key, b"2")])
    assert written is not None
    assert written > created
    # The key was written again, but not created again: here the two conditions differ.
    assert etcd_client.commit([Unchanged(key, created)], [Put(key, b"no")]) is None
    assert etcd_client.commit([CreatedAt(key, created)], [Put(key, b"3")]) is not None
    # A new leader's fence differs from the old one's.
    etcd_client.commit([], [Delete(fence)])
    etcd_client.commit([], [Put(fence, b"")])
    assert etcd_client.commit([CreatedAt(fence, created)], [Put(key, b"no")]) is None
    assert etcd_client.read(key).values[key].value == b"3"


def test_a_commit_can_require_that_nothing_below_a_prefix_changed(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    key = etcd_settings.prefix + "key"
    nothing_yet = etcd_client.commit([NoneSince(key + "/", 0)], [Put(key + "/a", b"1")])
    assert nothing_yet is not None
    assert etcd_client.commit([NoneSince(key + "/", nothing_yet)], [Put(key, b"beside")]) is not None
    second = etcd_client.commit([], [Put(key + "/b", b"1")])
    assert second is not None
    assert etcd_client.commit([NoneSince(key + "/", nothing_yet)], [Put(key, b"no")]) is None
    assert etcd_client.commit([NoneSince(key + "/", second)], [Put(key, b"2")]) is not None


def test_a_commit_can_require_that_a_key_was_not_written_since(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    key, other = etcd_settings.prefix + "key", etcd_settings.prefix + "other"
    assert etcd_client.commit([UnwrittenSince(key, 0)], [Put(other, b"1")]) is not None, "an absent key was not written"
    written = etcd_client.commit([], [Put(key, b"1")])
    assert written is not None
    assert etcd_client.commit([UnwrittenSince(key, written)], [Put(other, b"2")]) is not None
    assert etcd_client.commit([UnwrittenSince(key, written - 1)], [Put(other, b"no")]) is None
    etcd_client.commit([], [Delete(key)])
    assert etcd_client.commit([UnwrittenSince(key, 0)], [Put(other, b"3")]) is not None


def test_a_commit_can_require_that_a_key_exists(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    key, other = etcd_settings.prefix + "key", etcd_settings.prefix + "other"
    assert etcd_client.commit([Present(key)], [Put(other, b"no")]) is None
    etcd_client.commit([], [Put(key, b"")])
    assert etcd_client.commit([Present(key)], [Put(other, b"1")]) is not None
    etcd_client.commit([], [Delete(key)])
    assert etcd_client.commit([Present(key)], [Put(other, b"no")]) is None


def test_a_commit_can_require_that_a_key_is_under_a_lease(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    key, other = etcd_settings.prefix + "key", etcd_settings.prefix + "other"
    lease, another = etcd_client.grant(60), etcd_client.grant(60)
    assert etcd_client.commit([UnderLease(key, lease)], [Put(other, b"no")]) is None
    etcd_client.commit([], [Put(key, b"", lease)])
    assert etcd_client.commit([UnderLease(key, lease)], [Put(other, b"1")]) is not None
    assert etcd_client.commit([UnderLease(key, another)], [Put(other, b"no")]) is None
    etcd_client.revoke_lease(lease)
    assert etcd_client.commit([UnderLease(key, lease)], [Put(other, b"no")]) is None


def test_a_commit_can_read_as_of_its_own_revision(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    key, other, absent = (etcd_settings.prefix + name for name in ("key", "other", "absent"))
    before = etcd_client.commit([], [Put(other, b"before")])
    snapshot = etcd_client.commit_and_read([Unchanged(key, 0)], [Put(key, b"1")], [key, other, absent])
    assert snapshot is not None
    assert {name: entry.value for name, entry in snapshot.values.items()} == {key: b"1", other: b"before"}
    assert snapshot.values[key].mod_revision == snapshot.revision
    assert snapshot.values[other].mod_revision == before
    assert snapshot.cluster_id == etcd_client.read(key).cluster_id
    assert etcd_client.commit_and_read([Unchanged(key, 0)], [Put(key, b"no")], [key]) is None


def test_transactions_of_one_request_succeed_or_fail_by_themselves(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    first, second, third, lock = (etcd_settings.prefix + name for name in ("first", "second", "third", "lock"))
    etcd_client.commit([], [Put(lock, b"")])
    transactions = [
        Transaction([Unchanged(first, 0)], [Put(first, b"1")]),
        Transaction([Unchanged(lock, 0)], [Put(second, b"no")]),
        # The conditions are evaluated before the operations of any.
        Transaction([Unchanged(first, 0)], [Put(third, b"1")]),
    ]
    committed = etcd_client.commit_each(transactions, conditions=[Present(lock)], keys=[lock, first])
    assert committed is not None
    succeeded, snapshot = committed
    assert succeeded == [True, False, True]
    assert {entry.mod_revision for entry in etcd_client.read(first, third).values.values()} == {snapshot.revision}
    assert second not in etcd_client.read(second).values
    assert snapshot.values.keys() == {lock, first}
    etcd_client.commit([], [Delete(lock)])
    assert etcd_client.commit_each(transactions, conditions=[Present(lock)], keys=[]) is None
    with pytest.raises(ValueError, match="at least one operation"):
        etcd_client.commit_each([Transaction([], [])], conditions=[], keys=[])


def test_a_prefix_is_deleted_and_counted_without_its_neighbours(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    prefix = etcd_settings.prefix
    etcd_client.commit([], [Put(prefix + name, b"") for name in ("a", "a/1", "a/2", "a0", "b")])
    assert etcd_client.count(prefix + "a/") == 2
    etcd_client.commit([], [Delete(prefix + "a/", prefix=True)])
    assert list(etcd_client.read_prefix(prefix).values) == [prefix + name for name in ("a", "a0", "b")]
    etcd_client.commit([], [Delete(prefix + "a")])
    assert etcd_client.count(prefix) == 2


def test_a_prefix_is_read_at_one_revision_in_any_number_of_pages(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_MAX_KEYS_PER_PAGE", 3)
    keys = [f"{etcd_settings.prefix}{number:02}" for number in range(20)]

    class Interfering(EtcdClient):
        """Between any two pages it writes all keys, and one more."""

        def _request(self, *arguments: Any, **options: Any) -> Any:
            answer = super()._request(*arguments, **options)
            etcd_client.commit([], [Put(key, b"new") for key in [*keys, f"{etcd_settings.prefix}more-{answer.count}"]])
            return answer

    revision = etcd_client.commit([], [Put(key, b"old") for key in keys])
    with Interfering(etcd_settings) as interfering:
        seen = interfering.read_prefix(etcd_settings.prefix)
    assert seen.revision == revision
    assert {key: entry.value for key, entry in seen.values.items()} == dict.fromkeys(keys, b"old")
    then = etcd_client.read_prefix(etcd_settings.prefix, revision=seen.revision)
    assert then.values == seen.values


def test_a_compaction_between_two_pages_is_survived(own_etcd: EtcdProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_MAX_KEYS_PER_PAGE", 3)
    settings = own_etcd.settings("/test/")
    keys = [f"/test/{number}" for number in range(7)]
    compacted: list[int] = []

    class Interfering(EtcdClient):
        def _request(self, *arguments: Any, **options: Any) -> Any:
            answer = super()._request(*arguments, **options)
            if not compacted and answer.more:
                with EtcdClient(settings) as other:
                    newest = other.commit([], [Put(key, b"new") for key in keys])
                assert newest is not None
                compact(settings, newest)
                compacted.append(newest)
            return answer

    with EtcdClient(settings) as client, Interfering(settings) as interfering:
        old = client.commit([], [Put(key, b"old") for key in keys])
        assert old is not None
        seen = interfering.read_prefix("/test/")
        assert {entry.value for entry in seen.values.values()} == {b"new"}
        assert [seen.revision] == compacted
        with pytest.raises(Compacted, match="compacted"):
            client.read_prefix("/test/", revision=old)
        with pytest.raises(RevisionNotReached, match="future"):
            client.read_at("/test/0", seen.revision + 1000)


def test_a_watch_from_a_compacted_revision_is_refused(own_etcd: EtcdProcess) -> None:
    settings = own_etcd.settings("/test/")
    with EtcdClient(settings) as client:
        revisions = [client.commit([], [Put("/test/a", b"%d" % count)]) for count in range(3)]
        assert revisions[0] is not None
        assert revisions[-1] is not None
        compact(settings, revisions[-1])
        with pytest.raises(Compacted, match="compacted up to revision"), client.watch("/test/", revisions[0]) as watch:
            watch.next_events()
        with client.watch("/test/", revisions[-1]) as watch:
            assert [event.value for event in watch.next_events()] == [b"2"]


def test_a_key_is_read_as_of_an_earlier_revision(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    key = etcd_settings.prefix + "key"
    first = etcd_client.commit([], [Put(key, b"1")])
    assert first is not None
    etcd_client.commit([], [Delete(key)])
    assert etcd_client.read_at(key, first).values[key].value == b"1"
    assert etcd_client.read_at(key, first - 1).values == {}


def test_keys_that_are_not_utf8_are_read_as_they_were_written(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    key = etcd_settings.prefix + b"\xff\xfe".decode("utf-8", "surrogateescape")
    etcd_client.commit([], [Put(key, b"\x00\xff")])
    assert etcd_client.read_prefix(etcd_settings.prefix).values[key].value == b"\x00\xff"
    assert etcd_client.read(key).values[key].value == b"\x00\xff"


def test_a_lease_of_a_known_id_is_made_once(etcd_client: EtcdClient) -> None:
    lease = etcd_client.grant(60)
    assert lease != 0
    assert etcd_client.grant(60, lease) == lease
    assert 0 < etcd_client.keep_alive(lease) <= 60
    etcd_client.revoke_lease(lease)
    assert etcd_client.keep_alive(lease) == 0
    etcd_client.revoke_lease(lease)


def test_a_put_under_a_lease_that_is_gone_is_refused_and_nothing_is_written(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    with pytest.raises(LeaseNotFound, match="lease not found"):
        etcd_client.commit([], [Put(etcd_settings.prefix + "a", b""), Put(etcd_settings.prefix + "b", b"", lease=99)])
    assert etcd_client.count(etcd_settings.prefix) == 0


def test_an_invalid_request_is_refused_at_once(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    key = etcd_settings.prefix + "a"
    with pytest.raises(EtcdRefused, match="duplicate key"):
        etcd_client.commit([], [Put(key, b"1"), Put(key, b"2")])


def test_an_event_names_the_lease_of_its_key(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    """Also if the watch begins later than the put: etcd then reads the events from its store."""
    key, lease = etcd_settings.prefix + "a", etcd_client.grant(60)
    first = etcd_client.commit([], [Put(key, b"early", lease)])
    assert first is not None
    with etcd_client.watch(etcd_settings.prefix, first) as watch:
        events = [*watch.next_events()]
        etcd_client.commit([], [Put(key, b"late", lease)])
        etcd_client.commit([], [Put(key, b"free")])
        etcd_client.commit([], [Delete(key)])
        while len(events) < 4:
            events += watch.next_events()
    assert [(event.value, event.lease) for event in events] == [
        (b"early", lease),
        (b"late", lease),
        (b"free", 0),
        (None, 0),
    ]


def test_a_closed_client_ends_its_watches_and_refuses_requests(etcd_settings: EtcdSettings) -> None:
    client = EtcdClient(etcd_settings)
    watch = client.watch(etcd_settings.prefix, 1)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            watch.next_events()
        except EtcdUnavailable as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    client.close()
    waiting.join(5)
    assert len(ended) == 1
    for request in (lambda: client.read("/a"), lambda: client.watch("/a", 1), lambda: client.grant(5)):
        with pytest.raises(EtcdUnavailable, match="closed"):
            request()


def test_threads_share_a_client(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    """Several threads increment by compare-and-set: no increment is lost, and none happens twice."""
    key = etcd_settings.prefix + "counter"
    etcd_client.commit([], [Put(key, b"0")])

    def increment() -> None:
        done = 0
        while done < 20:
            entry = etcd_client.read(key).values[key]
            value = str(int(entry.value) + 1).encode()
            done += etcd_client.commit([Unchanged(key, entry.mod_revision)], [Put(key, value)]) is not None

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert etcd_client.read(key).values[key].value == b"80"
