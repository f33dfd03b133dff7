"""Watching over the history: beginning it, vouching for it, answering its loss; and what a replica remembers."""

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
from interceptors.keyspace import Layout, moved_beacon
from interceptors.scopes import EVERYONE
from interceptors.settings import EtcdSettings
from interceptors.trust.continuity import NOTHING_OBSERVED, Beacon, History, Observation
from interceptors.trust.continuity_monitor import OUT_OF_TOUCH_SECONDS
from tests.support.guards import Make, fence, history, register
from tests.support.waiting import wait_until


def test_a_new_mesh_is_in_its_first_history_whoever_begins_it(
    replica: Make, etcd_client: EtcdClient, layout: Layout
) -> None:
    guards = [replica(), replica()]
    for guard in guards:
        guard.look()
        assert guard.look() is not None
    found = history(etcd_client, layout)
    assert not found.lost
    assert found.cluster_id == etcd_client.read(layout.beacon).cluster_id


def test_a_loss_is_answered_in_one_commit_that_leaves_nothing_of_before(
    replica: Make, etcd_client: EtcdClient, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    guard = replica()
    guard.look()
    first = history(etcd_client, layout).history_id
    # Even a session that claims to be newer than anything that is revoked from now on: issued across the loss.
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
    guard.look()
    guard.watermark.remember(replace(guard.watermark.observed, revision=1 << 40))
    with caplog.at_level("INFO"):
        assert guard.look() is None
    found = history(etcd_client, layout)
    (lost,) = found.lost
    assert lost.history_id == first != found.history_id
    assert lost.highest_revision == 1 << 40
    assert "revision" in lost.reason
    gone = (layout.keys, layout.vault, layout.signing, layout.sessions, layout.barriers, layout.acks)
    assert not any(etcd_client.read_prefix(prefix).values for prefix in gone)
    # Accounts stay: there is nothing to make them of anew.
    assert layout.user("alice") in etcd_client.read(layout.user("alice")).values
    changed = {etcd_client.read(key).values[key].mod_revision for key in (layout.history, layout.beacon)}
    changed |= {etcd_client.read(key).values[key].mod_revision for key in (layout.epoch(EVERYONE), layout.rotation)}
    assert len(changed) == 1
    (line,) = [one.__dict__ for one in caplog.records if one.message == "history.lost"]
    assert (line["history_id"], line["noticed_by"]) == (first, "auth")
    # Answered once: it goes on from there.
    assert guard.look() is not None
    assert len(history(etcd_client, layout).lost) == 1


def test_two_replicas_that_notice_answer_once(replica: Make, etcd_client: EtcdClient, layout: Layout) -> None:
    guards = [replica(node_id="one"), replica(node_id="other")]
    for guard in guards:
        guard.look()
        guard.look()
        guard.watermark.remember(replace(guard.watermark.observed, revision=1 << 40))
    for guard in (*guards, *guards):
        guard.look()
    assert [one.noticed_by for one in history(etcd_client, layout).lost] == ["one"]
    assert all(guard.look() is not None for guard in guards)


def test_what_a_node_says_it_found_missing_is_answered(
    replica: Make, etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    guard = replica()
    guard.look()
    first = history(etcd_client, layout).history_id
    register(etcd_client, layout, broken_history="another, long gone")
    wait_until(lambda: "n" in ack_tracker.registered)
    assert guard.look() is not None
    register(etcd_client, layout, broken_history=first)
    wait_until(lambda: ack_tracker.registered["n"].record.broken_history == first)
    assert guard.look() is None
    assert history(etcd_client, layout).lost[0].noticed_by == "n"
    # What it says is of the history before, and no reason to go on and on.
    assert guard.look() is not None


def test_the_leader_vouches_when_a_node_has_registered_and_not_otherwise(
    replica: Make, etcd_client: EtcdClient, layout: Layout
) -> None:
    guard = replica()
    guard.look()
    lead = fence(etcd_client, layout)
    begun = history(etcd_client, layout)
    guard.vouch(lead)
    assert history(etcd_client, layout) == begun
    register(etcd_client, layout)
    guard.vouch(lead)
    found = etcd_client.read(layout.history, layout.node("n")).values
    assert found[layout.history].mod_revision > found[layout.node("n")].mod_revision
    assert history(etcd_client, layout).HasField("vouched_at")


def test_a_leader_that_was_deposed_vouches_for_nothing(replica: Make, etcd_client: EtcdClient, layout: Layout) -> None:
    guard = replica()
    guard.look()
    deposed = fence(etcd_client, layout)
    fence(etcd_client, layout)
    register(etcd_client, layout)
    guard.vouch(deposed)
    assert not history(etcd_client, layout).HasField("vouched_at")


class Restored(EtcdClient):
    """Etcd is replaced right before the vouch is committed: the mark of this vouch is not in it."""

    armed = False

    def commit(self, conditions: object, operations: object, *, timeout: float | None = None) -> int | None:
        keys = [operation.key for operation in operations]  # type: ignore[attr-defined]
        if self.armed and any(key.endswith("mesh/history") for key in keys):
            self.armed = False
            check = next(c.key for c in conditions if c.key.endswith("auth/check"))  # type: ignore[attr-defined]
            super().commit([], [Put(check, b"an older mark")])
        return super().commit(conditions, operations, timeout=timeout)  # type: ignore[arg-type]


def test_a_vouch_is_not_committed_to_an_etcd_that_was_not_looked_at(
    replica: Make, etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout
) -> None:
    with Restored(etcd_settings) as etcd:
        guard = replica(etcd=etcd)
        guard.look()
        lead = fence(etcd_client, layout)
        register(etcd_client, layout)
        etcd.armed = True
        pause = guard.vouch(lead)
        assert not etcd.armed
        assert not history(etcd_client, layout).HasField("vouched_at")
        # And it is tried again, soon.
        assert pause < 1
        wait_until(lambda: (guard.vouch(lead), history(etcd_client, layout).HasField("vouched_at"))[1])


def test_where_nobody_leads_a_replica_vouches_all_the_same(
    replica: Make, etcd_client: EtcdClient, layout: Layout
) -> None:
    guard = replica()
    guard.start()
    register(etcd_client, layout)
    wait_until(lambda: history(etcd_client, layout).HasField("vouched_at"))


def test_what_a_replica_has_seen_outlives_it(tmp_path: Path, replica: Make, etcd_client: EtcdClient) -> None:
    path = tmp_path / "watermark.json"
    guard = replica(path)
    guard.look()
    guard.look()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Watermark(path, guard._layout.prefix).observed
    seen = guard.watermark.observed
    assert (again.revision, again.beacon, again.cluster_id) == (seen.revision, seen.beacon, seen.cluster_id)
    assert again.history is not None
    assert seen.history is not None
    assert again.history.history_id == seen.history.history_id


def test_what_the_watch_brings_is_looked_at_and_remembered_soon(
    tmp_path: Path, replica: Make, etcd_client: EtcdClient, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.continuity.guard._LOOK_EVERY", 3600.0)
    path = tmp_path / "watermark.json"
    guard = replica(path)
    guard.look()
    guard.start()
    beacon = moved_beacon(layout)
    revision = etcd_client.commit([], [beacon])
    assert revision is not None
    guard.monitor.record_watched(revision, beacon=Beacon(revision, beacon.value))
    wait_until(lambda: json.loads(path.read_text())["beacon"] == revision)
    assert json.loads(path.read_text())["beacon_value"] == beacon.value.hex()


class AckCollector(EtcdClient):
    """Reads only when it is let."""

    def __init__(self, settings: EtcdSettings) -> None:
        super().__init__(settings)
        self.reading, self.let = threading.Event(), threading.Event()

    def read(self, *keys: str, timeout: float | None = None) -> Snapshot:
        self.reading.set()
        assert self.let.wait(20)
        return super().read(*keys, timeout=timeout)


def test_what_is_noted_is_on_disk_at_once_even_if_a_look_waits_for_etcd(
    tmp_path: Path, replica: Make, etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout
) -> None:
    path = tmp_path / "watermark.json"
    replica().look()
    with AckCollector(etcd_settings) as etcd:
        etcd.let.set()
        guard = replica(path, etcd=etcd)
        assert guard.look() is not None
        etcd.let.clear()
        etcd.reading.clear()
        looking = threading.Thread(target=guard.look)
        looking.start()
        assert etcd.reading.wait(20)
        beacon = moved_beacon(layout)
        revision = etcd_client.commit([], [beacon])
        assert revision is not None
        guard.note(Beacon(revision, beacon.value), ticks())
        again = Watermark(path, layout.prefix).observed
        assert looking.is_alive()
        etcd.let.set()
        looking.join(20)
        assert (again.revision, again.beacon, again.beacon_value) == (revision, revision, beacon.value)
        # And the look, whose read was of before or after, takes nothing of it away.
        assert guard.watermark.observed.beacon >= revision
        assert guard.look() is not None


def test_what_one_notes_in_a_new_history_another_does_not_take_away(tmp_path: Path, replica: Make) -> None:
    """Two receipts at once, of which the slower one found the history before."""
    path = tmp_path / "watermark.json"
    guard = replica(path)
    old, new = History("old", 1), History("new", 1, frozenset({"old"}))
    guard.watermark.begin(Observation(1, 50, 50, old, b"o"), guard.watermark.noted)
    seen, go_on = threading.Event(), threading.Event()

    class Slow:
        """What the node has seen, told late to one thread."""

        @property
        def history(self) -> History:
            if threading.current_thread() is slower:
                seen.set()
                go_on.wait(20)
            return new

    guard._monitor = Slow()  # type: ignore[assignment]
    slower = threading.Thread(target=guard.note, args=(Beacon(99, b"b"), ticks()))
    slower.start()
    assert seen.wait(20)
    guard.note(Beacon(100, b"a"), ticks())
    go_on.set()
    slower.join(20)
    again = Watermark(path, guard._layout.prefix).observed
    assert (again.history, again.beacon, again.beacon_value) == (new, 100, b"a")


def test_what_is_noted_late_has_to_be_in_etcd_still(replica: Make, etcd_client: EtcdClient, layout: Layout) -> None:
    """A replica that was paused right after its commit: others may have vouched for an etcd without it meanwhile."""
    guard = replica()
    guard.look()
    beacon = moved_beacon(layout)
    revision = etcd_client.commit([], [beacon])
    assert revision is not None
    etcd_client.commit([], [moved_beacon(layout)])
    late = ticks() - OUT_OF_TOUCH_SECONDS - 1
    guard.note(Beacon(revision, beacon.value), late)
    for gone in (Beacon(revision, b"another"), Beacon(revision + 1 << 40, b"x")):
        with pytest.raises(EtcdUnavailable):
            guard.note(gone, late)
        # In time it is taken at its word: nobody restores etcd as quickly as that.
        guard.note(gone, ticks())


def test_several_who_note_at_once_wait_for_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watermark = Watermark(tmp_path / "watermark.json", "/p/")
    writes: list[object] = []
    hold = threading.Event()

    def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        writes.append(descriptor)
        assert hold.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    threads = [threading.Thread(target=watermark.note, args=(Beacon(n, b"%d" % n),)) for n in range(1, 21)]
    threads[0].start()
    wait_until(lambda: writes)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: watermark.noted == len(threads))
    assert all(thread.is_alive() for thread in threads)
    hold.set()
    for thread in threads:
        thread.join(20)
    assert len(writes) == 4  # the file's and its folder's, for the first one and for all others
    assert Watermark(tmp_path / "watermark.json", "/p/").observed.beacon == 20


def test_what_is_noted_while_another_history_is_learned_of_is_not_forgotten() -> None:
    """It may be of the one or of the other: whoever looks once more knows."""
    watermark = Watermark(None, "/p/")
    watermark.remember(Observation(1, 100, 90, History("first", 1)))
    noted = watermark.noted
    watermark.note(Beacon(130, b"x"))
    other = Observation(1, 120, 120, History("second", 1, frozenset({"first"})))
    watermark.begin(other, noted)
    assert watermark.observed.beacon == 130
    watermark.begin(other, watermark.noted)
    assert watermark.observed == other


def test_what_is_noted_of_a_history_that_only_the_node_knows_is_noted_as_of_that(replica: Make) -> None:
    guard = replica()
    first, second = History("first", 1), History("second", 1, frozenset({"first"}))
    guard.monitor.begin_history(Observation(1, 50, 40, first, b"a"))
    guard.note(Beacon(60, b"b"), ticks())
    assert guard.watermark.observed == Observation(1, 60, 60, first, b"b")
    guard.monitor.begin_history(Observation(1, 30, 30, second, b"c"))
    guard.note(Beacon(31, b"d"), ticks())
    assert guard.watermark.observed == Observation(1, 31, 31, second, b"d")


def test_a_memory_of_before_the_beacon_held_anything_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "watermark.json"
    watermark = Watermark(path, "/p/")
    watermark.remember(Observation(1, 100, 90, History("first", 1), b"x"))
    entries = json.loads(path.read_text())
    del entries["beacon_value"]
    path.write_text(json.dumps(entries))
    assert Watermark(path, "/p/").observed == Observation(1, 100, 90, History("first", 1))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 99}', '{"format": 1, "prefix": "/other/"}', '{"format": 1, "prefix": "/p/"}']
)
def test_a_memory_that_cannot_be_used_is_begun_anew_loudly(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "watermark.json"
    path.write_text(content)
    assert Watermark(path, "/p/").observed == NOTHING_OBSERVED
    assert "is begun anew" in caplog.text
    assert Watermark(path, "/p/").observed == NOTHING_OBSERVED


def test_a_memory_that_cannot_be_written_is_named_when_the_replica_starts(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CREDMESH_MEMORY_FILE=.*for example"):
        Watermark(tmp_path / "no such folder" / "watermark.json", "/p/")


def test_a_memory_that_fails_later_is_logged_once_and_kept_in_mind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "watermark"
    folder.mkdir()
    watermark = Watermark(folder / "watermark.json", "/p/")
    (folder / "watermark.json").unlink()
    folder.rmdir()
    for revision in (10, 20):
        watermark.remember(Observation(1, revision, 5, History("h", 1)))
    assert watermark.observed.revision == 20
    assert caplog.text.count("cannot write down") == 1
