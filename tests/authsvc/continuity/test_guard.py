"""The continuity guard begins the history, vouches for it and recovers from its loss; the watermark outlives it."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from authsvc.continuity.watermark import Watermark
from authsvc.coordination.acknowledgements import AckTracker
from credmesh.store.v1 import auth_pb2
from interceptors.clock import ticks
from interceptors.errors import SettingsError
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put, Snapshot
from interceptors.keyspace import Layout, beacon_update
from interceptors.scopes import EVERYONE
from interceptors.settings import EtcdSettings
from interceptors.trust.continuity import NOTHING_OBSERVED, Beacon, History, Observation
from interceptors.trust.continuity_monitor import MAX_SILENCE_SECONDS
from tests.support.guards import Make, fence, history, register
from tests.support.waiting import wait_until


def test_a_new_mesh_is_in_one_first_history_whichever_replica_begins_it(
    replica: Make, etcd_client: EtcdClient, layout: Layout
) -> None:
    guards = [replica(), replica()]
    for guard in guards:
        guard.check_and_recover()
        assert guard.check_and_recover() is not None
    found = history(etcd_client, layout)
    assert not found.lost
    assert found.cluster_id == etcd_client.read(layout.beacon).cluster_id


def test_the_recovery_from_a_loss_is_one_commit_that_ends_everything_issued(
    replica: Make, etcd_client: EtcdClient, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    guard = replica()
    guard.check_and_recover()
    first = history(etcd_client, layout).history_id
    # The recovery also ends a session whose epoch is above every later revocation: it was issued across the loss.
    session = auth_pb2.SessionRecord(format=1, session_id="s", subject="alice", epoch=1 << 40).SerializeToString()
    etcd_client.commit(
        [],
        [
            Put(layout.key("k"), b"a key"),
            Put(layout.sealed_key("k"), b"sealed"),
            Put(layout.signing, b"k"),
            Put(layout.session("s"), session),
            Put(layout.barrier("rotation"), b""),
            Put(layout.ack("rotation", "n"), b""),
            Put(layout.user("alice"), b"a user"),
        ],
    )
    guard.check_and_recover()
    guard.watermark.advance(replace(guard.watermark.observed, revision=1 << 40))
    with caplog.at_level("INFO"):
        assert guard.check_and_recover() is None
    found = history(etcd_client, layout)
    (lost,) = found.lost
    assert lost.history_id == first != found.history_id
    assert lost.highest_revision == 1 << 40
    assert "revision" in lost.reason
    gone = (layout.keys, layout.vault, layout.signing, layout.sessions, layout.barriers, layout.acks)
    assert not any(etcd_client.read_prefix(prefix).values for prefix in gone)
    # Accounts stay: nothing could restore them.
    assert layout.user("alice") in etcd_client.read(layout.user("alice")).values
    changed = {etcd_client.read(key).values[key].mod_revision for key in (layout.history, layout.beacon)}
    changed |= {etcd_client.read(key).values[key].mod_revision for key in (layout.epoch(EVERYONE), layout.rotation)}
    assert len(changed) == 1
    (line,) = [one.__dict__ for one in caplog.records if one.message == "history.lost"]
    assert (line["history_id"], line["noticed_by"]) == (first, "auth")
    # The recovery happens once.
    assert guard.check_and_recover() is not None
    assert len(history(etcd_client, layout).lost) == 1


def test_two_replicas_that_find_a_loss_recover_once(replica: Make, etcd_client: EtcdClient, layout: Layout) -> None:
    guards = [replica(node_id="one"), replica(node_id="other")]
    for guard in guards:
        guard.check_and_recover()
        guard.check_and_recover()
        guard.watermark.advance(replace(guard.watermark.observed, revision=1 << 40))
    for guard in (*guards, *guards):
        guard.check_and_recover()
    assert [one.noticed_by for one in history(etcd_client, layout).lost] == ["one"]
    assert all(guard.check_and_recover() is not None for guard in guards)


def test_a_loss_that_a_node_reports_is_recovered_from(
    replica: Make, etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    guard = replica()
    guard.check_and_recover()
    first = history(etcd_client, layout).history_id
    register(etcd_client, layout, broken_history="another, long gone")
    wait_until(lambda: "n" in ack_tracker.registered_nodes)
    assert guard.check_and_recover() is not None
    register(etcd_client, layout, broken_history=first)
    wait_until(lambda: ack_tracker.registered_nodes["n"].record.broken_history == first)
    assert guard.check_and_recover() is None
    assert history(etcd_client, layout).lost[0].noticed_by == "n"
    # The report names the history that has ended, so it is no reason for another recovery.
    assert guard.check_and_recover() is not None


def test_the_leader_vouches_only_after_a_node_has_registered(
    replica: Make, etcd_client: EtcdClient, layout: Layout
) -> None:
    guard = replica()
    guard.check_and_recover()
    leader_fence = fence(etcd_client, layout)
    begun = history(etcd_client, layout)
    guard.vouch_job(leader_fence)
    assert history(etcd_client, layout) == begun
    register(etcd_client, layout)
    guard.vouch_job(leader_fence)
    found = etcd_client.read(layout.history, layout.node("n")).values
    assert found[layout.history].mod_revision > found[layout.node("n")].mod_revision
    assert history(etcd_client, layout).HasField("vouched_at")


def test_a_deposed_leader_vouches_for_nothing(replica: Make, etcd_client: EtcdClient, layout: Layout) -> None:
    guard = replica()
    guard.check_and_recover()
    deposed = fence(etcd_client, layout)
    fence(etcd_client, layout)
    register(etcd_client, layout)
    guard.vouch_job(deposed)
    assert not history(etcd_client, layout).HasField("vouched_at")


class Restored(EtcdClient):
    """A client whose etcd is replaced right before it commits a vouch. The other etcd lacks this vouch's mark."""

    armed = False

    def commit(self, conditions: object, operations: object, *, timeout: float | None = None) -> int | None:
        keys = [operation.key for operation in operations]  # type: ignore[attr-defined]
        if self.armed and any(key.endswith("mesh/history") for key in keys):
            self.armed = False
            check = next(c.key for c in conditions if c.key.endswith("auth/check"))  # type: ignore[attr-defined]
            super().commit([], [Put(check, b"an older mark")])
        return super().commit(conditions, operations, timeout=timeout)  # type: ignore[arg-type]


def test_a_vouch_is_not_committed_to_an_etcd_that_was_not_checked(
    replica: Make, etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout
) -> None:
    with Restored(etcd_settings) as etcd:
        guard = replica(etcd=etcd)
        guard.check_and_recover()
        leader_fence = fence(etcd_client, layout)
        register(etcd_client, layout)
        etcd.armed = True
        pause = guard.vouch_job(leader_fence)
        assert not etcd.armed
        assert not history(etcd_client, layout).HasField("vouched_at")
        # The job asks to be called again soon.
        assert pause < 1
        wait_until(lambda: (guard.vouch_job(leader_fence), history(etcd_client, layout).HasField("vouched_at"))[1])


def test_a_replica_vouches_if_none_leads(replica: Make, etcd_client: EtcdClient, layout: Layout) -> None:
    guard = replica()
    guard.start()
    register(etcd_client, layout)
    wait_until(lambda: history(etcd_client, layout).HasField("vouched_at"))


def test_what_a_replica_has_observed_survives_a_restart(tmp_path: Path, replica: Make, etcd_client: EtcdClient) -> None:
    path = tmp_path / "watermark.json"
    guard = replica(path)
    guard.check_and_recover()
    guard.check_and_recover()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Watermark(path, guard._layout.prefix).observed
    seen = guard.watermark.observed
    assert (again.revision, again.beacon_revision, again.cluster_id) == (
        seen.revision,
        seen.beacon_revision,
        seen.cluster_id,
    )
    assert again.history is not None
    assert seen.history is not None
    assert again.history.history_id == seen.history.history_id


def test_what_the_watch_brings_enters_the_watermark_soon(
    tmp_path: Path, replica: Make, etcd_client: EtcdClient, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.continuity.guard._CHECK_INTERVAL_SECONDS", 3600.0)
    path = tmp_path / "watermark.json"
    guard = replica(path)
    guard.check_and_recover()
    guard.start()
    beacon = beacon_update(layout)
    revision = etcd_client.commit([], [beacon])
    assert revision is not None
    guard.monitor.record_watched(revision, beacon=Beacon(revision, beacon.value))
    wait_until(lambda: json.loads(path.read_text())["beacon"] == revision)
    assert json.loads(path.read_text())["beacon_value"] == beacon.value.hex()


class GatedReads(EtcdClient):
    """A client whose reads wait until the test allows them."""

    def __init__(self, settings: EtcdSettings) -> None:
        super().__init__(settings)
        self.reading, self.allowed = threading.Event(), threading.Event()

    def read(self, *keys: str, timeout: float | None = None) -> Snapshot:
        self.reading.set()
        assert self.allowed.wait(20)
        return super().read(*keys, timeout=timeout)


def test_a_commit_is_on_disk_at_once_even_if_a_check_waits_for_etcd(
    tmp_path: Path, replica: Make, etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout
) -> None:
    path = tmp_path / "watermark.json"
    replica().check_and_recover()
    with GatedReads(etcd_settings) as etcd:
        etcd.allowed.set()
        guard = replica(path, etcd=etcd)
        assert guard.check_and_recover() is not None
        etcd.allowed.clear()
        etcd.reading.clear()
        checking = threading.Thread(target=guard.check_and_recover)
        checking.start()
        assert etcd.reading.wait(20)
        beacon = beacon_update(layout)
        revision = etcd_client.commit([], [beacon])
        assert revision is not None
        guard.remember_commit(Beacon(revision, beacon.value), ticks())
        again = Watermark(path, layout.prefix).observed
        assert checking.is_alive()
        etcd.allowed.set()
        checking.join(20)
        assert (again.revision, again.beacon_revision, again.beacon_value) == (revision, revision, beacon.value)
        # The check, whose read was before or after the commit, does not remove it.
        assert guard.watermark.observed.beacon_revision >= revision
        assert guard.check_and_recover() is not None


def test_a_commit_in_a_new_history_survives_a_slower_receipt(tmp_path: Path, replica: Make) -> None:
    """Two threads make receipts. The slower one has read the watermark of the history before."""
    path = tmp_path / "watermark.json"
    guard = replica(path)
    old, new = History("old", 1), History("new", 1, frozenset({"old"}))
    guard.watermark.begin_history(Observation(1, 50, 50, old, b"o"), guard.watermark.commits_recorded)
    seen, go_on = threading.Event(), threading.Event()

    class Slow:
        """What the node has observed, returned late to one thread."""

        @property
        def history(self) -> History:
            if threading.current_thread() is slower:
                seen.set()
                go_on.wait(20)
            return new

    guard._monitor = Slow()  # type: ignore[assignment]
    slower = threading.Thread(target=guard.remember_commit, args=(Beacon(99, b"b"), ticks()))
    slower.start()
    assert seen.wait(20)
    guard.remember_commit(Beacon(100, b"a"), ticks())
    go_on.set()
    slower.join(20)
    again = Watermark(path, guard._layout.prefix).observed
    assert (again.history, again.beacon_revision, again.beacon_value) == (new, 100, b"a")


def test_a_commit_that_is_remembered_late_must_still_be_in_etcd(
    replica: Make, etcd_client: EtcdClient, layout: Layout
) -> None:
    """If a replica was paused right after its commit, others may have vouched for an etcd without that commit."""
    guard = replica()
    guard.check_and_recover()
    beacon = beacon_update(layout)
    revision = etcd_client.commit([], [beacon])
    assert revision is not None
    etcd_client.commit([], [beacon_update(layout)])
    late = ticks() - MAX_SILENCE_SECONDS - 1
    guard.remember_commit(Beacon(revision, beacon.value), late)
    for gone in (Beacon(revision, b"another"), Beacon(revision + 1 << 40, b"x")):
        with pytest.raises(EtcdUnavailable):
            guard.remember_commit(gone, late)
        # Soon after the commit etcd is not read: no restore is as quick as that.
        guard.remember_commit(gone, ticks())


def test_commits_recorded_at_the_same_time_share_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watermark = Watermark(tmp_path / "watermark.json", "/p/")
    writes: list[object] = []
    hold = threading.Event()

    def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        writes.append(descriptor)
        assert hold.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    threads = [threading.Thread(target=watermark.record_commit, args=(Beacon(n, b"%d" % n),)) for n in range(1, 21)]
    threads[0].start()
    wait_until(lambda: writes)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: watermark.commits_recorded == len(threads))
    assert all(thread.is_alive() for thread in threads)
    hold.set()
    for thread in threads:
        thread.join(20)
    assert len(writes) == 4  # the file's and its folder's, for the first one and for all others
    assert Watermark(tmp_path / "watermark.json", "/p/").observed.beacon_revision == 20


def test_a_commit_recorded_before_the_history_changes_is_kept() -> None:
    """It may belong to either history; the next check knows."""
    watermark = Watermark(None, "/p/")
    watermark.advance(Observation(1, 100, 90, History("first", 1)))
    noted = watermark.commits_recorded
    watermark.record_commit(Beacon(130, b"x"))
    other = Observation(1, 120, 120, History("second", 1, frozenset({"first"})))
    watermark.begin_history(other, noted)
    assert watermark.observed.beacon_revision == 130
    watermark.begin_history(other, watermark.commits_recorded)
    assert watermark.observed == other


def test_a_commit_of_a_history_that_only_the_node_knows_is_kept_in_it(replica: Make) -> None:
    guard = replica()
    first, second = History("first", 1), History("second", 1, frozenset({"first"}))
    guard.monitor.begin_history(Observation(1, 50, 40, first, b"a"))
    guard.remember_commit(Beacon(60, b"b"), ticks())
    assert guard.watermark.observed == Observation(1, 60, 60, first, b"b")
    guard.monitor.begin_history(Observation(1, 30, 30, second, b"c"))
    guard.remember_commit(Beacon(31, b"d"), ticks())
    assert guard.watermark.observed == Observation(1, 31, 31, second, b"d")


def test_a_watermark_file_without_a_beacon_value_is_read(tmp_path: Path) -> None:
    path = tmp_path / "watermark.json"
    watermark = Watermark(path, "/p/")
    watermark.advance(Observation(1, 100, 90, History("first", 1), b"x"))
    entries = json.loads(path.read_text())
    del entries["beacon_value"]
    path.write_text(json.dumps(entries))
    assert Watermark(path, "/p/").observed == Observation(1, 100, 90, History("first", 1))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 99}', '{"format": 1, "prefix": "/other/"}', '{"format": 1, "prefix": "/p/"}']
)
def test_a_watermark_file_that_cannot_be_used_is_replaced_and_logged(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "watermark.json"
    path.write_text(content)
    assert Watermark(path, "/p/").observed == NOTHING_OBSERVED
    assert "is replaced by an empty one" in caplog.text
    assert Watermark(path, "/p/").observed == NOTHING_OBSERVED


def test_a_watermark_file_that_cannot_be_written_fails_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CREDMESH_MEMORY_FILE=.*for example"):
        Watermark(tmp_path / "no such folder" / "watermark.json", "/p/")


def test_a_watermark_that_cannot_be_written_later_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "watermark"
    folder.mkdir()
    watermark = Watermark(folder / "watermark.json", "/p/")
    (folder / "watermark.json").unlink()
    folder.rmdir()
    for revision in (10, 20):
        watermark.advance(Observation(1, revision, 5, History("h", 1)))
    assert watermark.observed.revision == 20
    assert caplog.text.count("cannot write the watermark") == 1
