"""How an observer of etcd's history finds that etcd has lost a part of it, and what a node then does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import KeyValue, Snapshot
from interceptors.etcd.mirror import Event, RereadRequired
from interceptors.keyspace import Layout
from interceptors.stored_records import RecordError
from interceptors.trust.bundle import TrustBundle
from interceptors.trust.continuity import (
    NOTHING_OBSERVED,
    Beacon,
    Continuity,
    History,
    Observation,
    assess_continuity,
    merge_observations,
    read_history,
)
from interceptors.trust.continuity_monitor import ContinuityMonitor
from tests.support.probe.issuer import ISSUER

LAYOUT = Layout("/credmesh/")
CLUSTER = 7
FIRST = History("first", CLUSTER, vouch_revision=10)
SECOND = History("second", CLUSTER, frozenset({"first"}), vouch_revision=60)
OBSERVED = Observation(CLUSTER, 100, 90, FIRST)

UNBROKEN, LOST, NEW_HISTORY = Continuity.UNBROKEN, Continuity.LOST, Continuity.NEW_HISTORY


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (OBSERVED, UNBROKEN),
        (replace(OBSERVED, revision=200, beacon_revision=150), UNBROKEN),
        (replace(OBSERVED, history=replace(FIRST, vouch_revision=180), revision=180), UNBROKEN),
        (replace(OBSERVED, revision=99), LOST),
        # Restored, and its revision raised or grown: the newest beacon is older than the observed one.
        (replace(OBSERVED, revision=10_000, beacon_revision=80), LOST),
        (replace(OBSERVED, cluster_id=8, revision=200), LOST),
        (replace(OBSERVED, history=None, revision=200, beacon_revision=150), LOST),
        (replace(OBSERVED, history=SECOND, revision=60, beacon_revision=60), NEW_HISTORY),
        (replace(OBSERVED, history=replace(SECOND, history_id="an unrelated one", ancestors=frozenset())), NEW_HISTORY),
    ],
)
def test_a_loss_and_a_new_history_are_distinguished_from_continuity(now: Observation, expected: Continuity) -> None:
    continuity, reason = assess_continuity(OBSERVED, now)
    assert continuity is expected
    assert bool(reason) == (expected is not UNBROKEN)


def test_a_history_that_has_ended_does_not_follow_its_successor() -> None:
    later = Observation(CLUSTER, 70, 70, SECOND)
    assert assess_continuity(later, replace(OBSERVED, revision=1000, beacon_revision=1000))[0] is LOST


def test_a_new_observer_detects_a_record_of_another_cluster() -> None:
    assert assess_continuity(NOTHING_OBSERVED, replace(OBSERVED, cluster_id=8))[0] is LOST
    assert assess_continuity(NOTHING_OBSERVED, OBSERVED)[0] is UNBROKEN


def test_without_a_history_a_loss_only_requires_another_read() -> None:
    """No auth service would recover from a loss. Reading again is all that helps."""
    bare = replace(OBSERVED, history=None)
    assert assess_continuity(bare, replace(bare, revision=50))[0] is NEW_HISTORY
    assert assess_continuity(bare, replace(bare, revision=150))[0] is UNBROKEN
    assert assess_continuity(bare, replace(OBSERVED, revision=150))[0] is UNBROKEN


revisions = st.integers(1, 60)


@given(revisions, revisions, st.integers(0, 60), st.booleans())
def test_a_missing_beacon_shows_a_loss_however_far_etcd_has_grown(
    backed_up: int, seen: int, written: int, raised: bool
) -> None:
    """Every commit here puts the beacon, as every revocation does."""
    known = Observation(CLUSTER, seen, seen, FIRST)
    # Commits after the restore are foreign ones: the beacon stays where the backup has it.
    revision = backed_up + written + (10**9 if raised else 0)
    continuity, _ = assess_continuity(known, Observation(CLUSTER, revision, backed_up, FIRST))
    assert continuity is (LOST if seen > backed_up else UNBROKEN)


@given(revisions, revisions, st.integers(0, 60), st.data())
def test_the_beacons_value_shows_a_loss_however_often_it_was_put_since(
    backed_up: int, seen: int, written: int, data: st.DataObject
) -> None:
    """Here some commits after the restore put the beacon, each with a new value."""
    before = {revision: b"before %d" % revision for revision in range(1, max(backed_up, seen) + 1)}
    there = {revision: value for revision, value in before.items() if revision <= backed_up}
    moved = data.draw(st.sets(st.integers(backed_up + 1, backed_up + 1 + written)))
    there |= {revision: b"after %d" % revision for revision in moved}
    newest = max(there)
    now = Observation(CLUSTER, max(newest, backed_up + written), newest, FIRST, there[newest])
    then = max((revision for revision in there if revision <= seen), default=0)
    known = Observation(CLUSTER, seen, seen, FIRST, before[seen])
    continuity, reason = assess_continuity(known, now, Beacon(then, there.get(then)))
    assert continuity is (LOST if seen > backed_up else UNBROKEN), reason


def test_another_beacon_value_at_the_same_revision_is_a_loss() -> None:
    known = replace(OBSERVED, beacon_value=b"a")
    assert assess_continuity(known, replace(OBSERVED, beacon_value=b"b"))[0] is LOST
    assert assess_continuity(known, replace(OBSERVED, beacon_value=b"a"))[0] is UNBROKEN
    # Without a known value there is nothing to compare.
    assert assess_continuity(OBSERVED, replace(OBSERVED, beacon_value=b"b"))[0] is UNBROKEN
    assert assess_continuity(known, OBSERVED)[0] is UNBROKEN


def test_no_beacon_at_the_observed_revision_is_a_loss_for_any_value() -> None:
    later = replace(OBSERVED, revision=200, beacon_revision=150)
    assert assess_continuity(OBSERVED, later, Beacon(90))[0] is UNBROKEN
    assert assess_continuity(OBSERVED, later, Beacon(80))[0] is LOST
    assert assess_continuity(OBSERVED, later, Beacon(0))[0] is LOST


def test_of_two_equal_beacons_the_one_with_a_value_is_kept() -> None:
    known = replace(OBSERVED, beacon_value=b"a")
    assert merge_observations(OBSERVED, known) == merge_observations(known, OBSERVED) == known
    later = replace(OBSERVED, beacon_revision=95)
    assert merge_observations(known, later).beacon_value is None


@given(st.lists(st.tuples(revisions, revisions), min_size=1))
def test_merged_observations_keep_the_highest_revision_of_each(pairs: list[tuple[int, int]]) -> None:
    together = NOTHING_OBSERVED
    for revision, beacon in pairs:
        together = merge_observations(together, Observation(CLUSTER, revision, beacon, FIRST))
    assert together.revision == max(revision for revision, _ in pairs)
    assert together.beacon_revision == max(beacon for _, beacon in pairs)
    later = Observation(CLUSTER, 1, 1, SECOND)
    assert merge_observations(together, later) == merge_observations(later, together) == later


class TestContinuityMonitor:
    """What a node observes, and when it reports a loss."""

    def test_a_loss_is_reported_once_and_lasts_until_a_new_history(self) -> None:
        monitor, reported = ContinuityMonitor(), []
        monitor.loss_listeners.append(lambda: reported.append(monitor.loss))
        assert monitor.record_read(NOTHING_OBSERVED, OBSERVED) is UNBROKEN
        assert monitor.record_read(monitor.observed, replace(OBSERVED, revision=50, beacon_revision=50)) is LOST
        # The restored etcd grows beyond everything that was observed.
        assert monitor.record_read(monitor.observed, replace(OBSERVED, revision=5000, beacon_revision=5000)) is LOST
        assert monitor.observed == OBSERVED
        assert monitor.broken_history == "first"
        assert len(reported) == 1
        assert monitor.record_read(monitor.observed, Observation(CLUSTER, 60, 60, SECOND)) is NEW_HISTORY
        monitor.begin_history(Observation(CLUSTER, 60, 60, SECOND))
        assert (monitor.loss, monitor.broken_history, monitor.history_generation) == ("", "", 1)

    def test_an_older_read_that_completes_late_is_not_a_loss(self) -> None:
        """Two threads read; the read that was sent first may be answered last."""
        monitor = ContinuityMonitor()
        monitor.record_read(NOTHING_OBSERVED, OBSERVED)
        before = monitor.observed
        monitor.record_watched(200, beacon=Beacon(200, b"moved"))
        assert monitor.record_read(before, replace(OBSERVED, revision=150)) is UNBROKEN
        assert monitor.observed.revision == 200

    def test_a_node_that_starts_on_another_cluster_waits_for_the_answer(self) -> None:
        monitor = ContinuityMonitor()
        assert monitor.record_read(NOTHING_OBSERVED, replace(OBSERVED, cluster_id=8)) is LOST
        assert monitor.broken_history == "first"
        recovered = Observation(8, 110, 110, replace(SECOND, cluster_id=8))
        assert monitor.record_read(monitor.observed, recovered) is NEW_HISTORY

    def test_only_a_vouch_after_the_required_revision_counts(self) -> None:
        monitor = ContinuityMonitor()
        assert monitor.vouched  # without a history there is no vouch
        monitor.require_vouch_after(100)
        monitor.record_read(NOTHING_OBSERVED, OBSERVED)
        assert not monitor.vouched
        monitor.record_watched(120, history=replace(FIRST, vouch_revision=120))
        assert monitor.vouched
        monitor.report_loss("found elsewhere")
        assert not monitor.vouched

    def test_a_claimed_epoch_that_etcd_has_not_reached_is_a_loss(self) -> None:
        monitor = ContinuityMonitor()
        monitor.record_read(NOTHING_OBSERVED, OBSERVED)
        monitor.note_unseen_epoch(150)
        monitor.resolve_unseen_epoch(monitor.highest_unseen_epoch(), 160)
        assert not monitor.loss
        monitor.note_unseen_epoch(170)
        unseen_epoch = monitor.highest_unseen_epoch()
        monitor.note_unseen_epoch(900)  # noted after etcd was read: that read says nothing about it
        monitor.resolve_unseen_epoch(unseen_epoch, 180)
        assert not monitor.loss
        monitor.resolve_unseen_epoch(monitor.highest_unseen_epoch(), 200)
        assert "900" in monitor.loss


def record(history: History) -> bytes:
    message = mesh_pb2.History(format=1, history_id=history.history_id, cluster_id=history.cluster_id)
    message.lost.extend(mesh_pb2.LostHistory(history_id=one) for one in sorted(history.ancestors))
    return message.SerializeToString()


def snapshot(revision: int, history: History, **epochs: int) -> Snapshot:
    values = {LAYOUT.epoch(f"sub/{name}"): KeyValue(b"", at, at, 0) for name, at in epochs.items()}
    values[LAYOUT.history] = KeyValue(record(history), history.vouch_revision, 1, 0)
    values[LAYOUT.beacon] = KeyValue(b"", max([2, *epochs.values()]), 2, 0)
    return Snapshot(values, revision, CLUSTER)


class TestBundle:
    """What a node verifies with until the auth service has recovered from a loss."""

    def test_a_restored_etcd_undoes_no_revocation_and_proves_nothing(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(100, FIRST, alice=95))
        bundle.add_proof(Beacon(95), 1.0)
        assert bundle.proven_at == 1.0
        changes = bundle.load(snapshot(50, FIRST))
        assert not changes.new_history
        assert bundle.epochs.find_revoked_scope(["sub/alice"], 90) == "sub/alice"
        bundle.add_proof(Beacon(40), 2.0)
        bundle.apply([Event(LAYOUT.barrier("b"), b"", 51)], 51)
        assert bundle.proven_at == 1.0
        assert bundle.revision == 100

    def test_barriers_of_a_restored_etcd_are_not_acknowledged(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(100, FIRST))
        bundle.monitor.report_loss("for a test")
        assert not bundle.apply([Event(LAYOUT.barrier("b"), b"", 101)], 101).barriers

    def test_a_new_history_replaces_the_whole_bundle(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(100, FIRST, alice=95))
        bundle.load(snapshot(50, FIRST))
        answer = Event(LAYOUT.history, record(SECOND), 60)
        with pytest.raises(RereadRequired):
            bundle.apply([answer], 60)
        changes = bundle.load(snapshot(60, SECOND, bob=58))
        assert changes.new_history
        assert bundle.revision == 60
        assert bundle.epochs.find_revoked_scope(["sub/alice"], 0) is None
        assert bundle.proven_at is None
        bundle.add_proof(Beacon(58), 3.0, history_generation=0)  # sent in the previous history
        assert bundle.proven_at is None
        bundle.add_proof(Beacon(58), 3.0, history_generation=1)
        assert bundle.proven_at == 3.0

    def test_a_new_history_is_read_even_if_no_loss_was_found(self) -> None:
        """A node that was cut off since before the backup resumes its watch, and the watch brings a new history."""
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(20, FIRST))
        with pytest.raises(RereadRequired):
            bundle.apply([Event(LAYOUT.history, record(SECOND), 60)], 60)

    def test_a_proof_waits_for_the_required_vouch(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.monitor.require_vouch_after(30)
        bundle.load(snapshot(40, FIRST))
        bundle.add_proof(Beacon(2), 5.0)
        assert bundle.proven_at is None
        bundle.apply([Event(LAYOUT.history, record(FIRST), 41)], 41)
        assert bundle.proven_at == 5.0

    def test_an_unreadable_history_record_changes_nothing(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(20, FIRST))
        newer = mesh_pb2.History(format=99, history_id="first").SerializeToString()
        bundle.apply([Event(LAYOUT.history, newer, 30)], 30)
        assert not bundle.monitor.loss
        assert bundle.monitor.history == FIRST
        for value in (b"\xff", newer, mesh_pb2.History(format=1).SerializeToString()):
            with pytest.raises(RecordError):
                read_history(value, 1)
