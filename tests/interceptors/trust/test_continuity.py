"""What somebody who has seen something of etcd's history can say of an etcd that may have lost some of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import KeyValue, Snapshot
from interceptors.etcd.mirror import Event, ReadAnew
from interceptors.keyspace import Layout
from interceptors.tokens.verification_key import RecordError
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
FIRST = History("first", CLUSTER, vouched_at=10)
SECOND = History("second", CLUSTER, frozenset({"first"}), vouched_at=60)
SEEN = Observation(CLUSTER, 100, 90, FIRST)

UNBROKEN, LOST, ANOTHER = Continuity.UNBROKEN, Continuity.LOST, Continuity.ANOTHER


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (SEEN, UNBROKEN),
        (replace(SEEN, revision=200, beacon=150), UNBROKEN),
        (replace(SEEN, history=replace(FIRST, vouched_at=180), revision=180), UNBROKEN),
        (replace(SEEN, revision=99), LOST),
        # Restored with its revision raised, or outgrown: what is there was written before what was seen.
        (replace(SEEN, revision=10_000, beacon=80), LOST),
        (replace(SEEN, cluster_id=8, revision=200), LOST),
        (replace(SEEN, history=None, revision=200, beacon=150), LOST),
        (replace(SEEN, history=SECOND, revision=60, beacon=60), ANOTHER),
        (replace(SEEN, history=replace(SECOND, history_id="a stranger's", ancestors=frozenset())), ANOTHER),
    ],
)
def test_what_is_missing_is_told_from_what_goes_on(now: Observation, expected: Continuity) -> None:
    continuity, why = assess_continuity(SEEN, now)
    assert continuity is expected
    assert bool(why) == (expected is not UNBROKEN)


def test_a_history_that_had_ended_is_no_successor() -> None:
    later = Observation(CLUSTER, 70, 70, SECOND)
    assert assess_continuity(later, replace(SEEN, revision=1000, beacon=1000))[0] is LOST


def test_who_has_seen_nothing_still_sees_that_a_record_is_of_another_cluster() -> None:
    assert assess_continuity(NOTHING_OBSERVED, replace(SEEN, cluster_id=8))[0] is LOST
    assert assess_continuity(NOTHING_OBSERVED, SEEN)[0] is UNBROKEN


def test_where_no_history_was_begun_nobody_would_answer_a_loss() -> None:
    """A mesh without the auth service, or from before there were histories: all that helps is to read anew."""
    bare = replace(SEEN, history=None)
    assert assess_continuity(bare, replace(bare, revision=50))[0] is ANOTHER
    assert assess_continuity(bare, replace(bare, revision=150))[0] is UNBROKEN
    assert assess_continuity(bare, replace(SEEN, revision=150))[0] is UNBROKEN


revisions = st.integers(1, 60)


@given(revisions, revisions, st.integers(0, 60), st.booleans())
def test_whoever_saw_a_commit_that_is_missing_notices_however_far_etcd_has_moved_on_since(
    backed_up: int, seen: int, written: int, raised: bool
) -> None:
    """Every commit here puts the beacon, as every revocation does."""
    known = Observation(CLUSTER, seen, seen, FIRST)
    # What is written after the restore is somebody else's: the mesh's beacon stays where the backup has it.
    revision = backed_up + written + (10**9 if raised else 0)
    continuity, _ = assess_continuity(known, Observation(CLUSTER, revision, backed_up, FIRST))
    assert continuity is (LOST if seen > backed_up else UNBROKEN)


@given(revisions, revisions, st.integers(0, 60), st.data())
def test_whoever_knows_what_the_beacon_held_notices_however_far_the_beacon_itself_has_moved_on_since(
    backed_up: int, seen: int, written: int, data: st.DataObject
) -> None:
    """Here some of what is written after the restore moves the beacon, each time to a value of its own."""
    before = {revision: b"before %d" % revision for revision in range(1, max(backed_up, seen) + 1)}
    there = {revision: value for revision, value in before.items() if revision <= backed_up}
    moved = data.draw(st.sets(st.integers(backed_up + 1, backed_up + 1 + written)))
    there |= {revision: b"after %d" % revision for revision in moved}
    newest = max(there)
    now = Observation(CLUSTER, max(newest, backed_up + written), newest, FIRST, there[newest])
    then = max((revision for revision in there if revision <= seen), default=0)
    known = Observation(CLUSTER, seen, seen, FIRST, before[seen])
    continuity, why = assess_continuity(known, now, Beacon(then, there.get(then)))
    assert continuity is (LOST if seen > backed_up else UNBROKEN), why


def test_the_same_beacon_that_holds_something_else_is_another_one() -> None:
    known = replace(SEEN, beacon_value=b"a")
    assert assess_continuity(known, replace(SEEN, beacon_value=b"b"))[0] is LOST
    assert assess_continuity(known, replace(SEEN, beacon_value=b"a"))[0] is UNBROKEN
    # Who has not seen what it held has nothing to compare.
    assert assess_continuity(SEEN, replace(SEEN, beacon_value=b"b"))[0] is UNBROKEN
    assert assess_continuity(known, SEEN)[0] is UNBROKEN


def test_a_beacon_that_was_not_put_when_it_was_seen_is_a_loss_whatever_it_held() -> None:
    later = replace(SEEN, revision=200, beacon=150)
    assert assess_continuity(SEEN, later, Beacon(90))[0] is UNBROKEN
    assert assess_continuity(SEEN, later, Beacon(80))[0] is LOST
    assert assess_continuity(SEEN, later, Beacon(0))[0] is LOST


def test_of_two_that_know_the_beacon_the_one_counts_that_knows_what_it_held() -> None:
    known = replace(SEEN, beacon_value=b"a")
    assert merge_observations(SEEN, known) == merge_observations(known, SEEN) == known
    later = replace(SEEN, beacon=95)
    assert merge_observations(known, later).beacon_value is None


@given(st.lists(st.tuples(revisions, revisions), min_size=1))
def test_what_several_know_is_the_most_that_any_of_them_knows(sights: list[tuple[int, int]]) -> None:
    together = NOTHING_OBSERVED
    for revision, beacon in sights:
        together = merge_observations(together, Observation(CLUSTER, revision, beacon, FIRST))
    assert together.revision == max(revision for revision, _ in sights)
    assert together.beacon == max(beacon for _, beacon in sights)
    later = Observation(CLUSTER, 1, 1, SECOND)
    assert merge_observations(together, later) == merge_observations(later, together) == later


class TestPast:
    """What a node keeps."""

    def test_a_loss_is_told_once_and_time_alone_does_not_mend_it(self) -> None:
        monitor, told = ContinuityMonitor(), []
        monitor.listeners.append(lambda: told.append(monitor.lost))
        assert monitor.record_read(NOTHING_OBSERVED, SEEN) is UNBROKEN
        assert monitor.record_read(monitor.observed, replace(SEEN, revision=50, beacon=50)) is LOST
        # The restored etcd outgrows all that was seen.
        assert monitor.record_read(monitor.observed, replace(SEEN, revision=5000, beacon=5000)) is LOST
        assert monitor.observed == SEEN
        assert monitor.broken_history == "first"
        assert len(told) == 1
        assert monitor.record_read(monitor.observed, Observation(CLUSTER, 60, 60, SECOND)) is ANOTHER
        monitor.begin_history(Observation(CLUSTER, 60, 60, SECOND))
        assert (monitor.lost, monitor.broken_history, monitor.history_generation) == ("", "", 1)

    def test_what_was_read_before_something_else_was_seen_is_no_loss(self) -> None:
        """Two threads read; the one that began first may come in last."""
        monitor = ContinuityMonitor()
        monitor.record_read(NOTHING_OBSERVED, SEEN)
        before = monitor.observed
        monitor.record_watched(200, beacon=Beacon(200, b"moved"))
        assert monitor.record_read(before, replace(SEEN, revision=150)) is UNBROKEN
        assert monitor.observed.revision == 200

    def test_a_node_that_starts_where_the_cluster_is_another_waits_for_the_answer(self) -> None:
        monitor = ContinuityMonitor()
        assert monitor.record_read(NOTHING_OBSERVED, replace(SEEN, cluster_id=8)) is LOST
        assert monitor.broken_history == "first"
        answered = Observation(8, 110, 110, replace(SECOND, cluster_id=8))
        assert monitor.record_read(monitor.observed, answered) is ANOTHER

    def test_only_a_vouch_after_it_was_wanted_counts(self) -> None:
        monitor = ContinuityMonitor()
        assert monitor.vouched  # nobody could
        monitor.require_vouch_after(100)
        monitor.record_read(NOTHING_OBSERVED, SEEN)
        assert not monitor.vouched
        monitor.record_watched(120, history=replace(FIRST, vouched_at=120))
        assert monitor.vouched
        monitor.report_loss("somebody else has found it out")
        assert not monitor.vouched

    def test_a_claimed_revision_that_etcd_has_not_reached_is_a_loss(self) -> None:
        monitor = ContinuityMonitor()
        monitor.record_read(NOTHING_OBSERVED, SEEN)
        monitor.note_unseen_epoch(150)
        monitor.resolve_unseen_epoch(monitor.highest_unseen_epoch(), 160)
        assert not monitor.lost
        monitor.note_unseen_epoch(170)
        unseen_epoch = monitor.highest_unseen_epoch()
        monitor.note_unseen_epoch(900)  # came in after etcd was asked: that answer says nothing about it
        monitor.resolve_unseen_epoch(unseen_epoch, 180)
        assert not monitor.lost
        monitor.resolve_unseen_epoch(monitor.highest_unseen_epoch(), 200)
        assert "900" in monitor.lost


def record(history: History) -> bytes:
    message = mesh_pb2.History(format=1, history_id=history.history_id, cluster_id=history.cluster_id)
    message.lost.extend(mesh_pb2.LostHistory(history_id=one) for one in sorted(history.ancestors))
    return message.SerializeToString()


def snapshot(revision: int, history: History, **epochs: int) -> Snapshot:
    values = {LAYOUT.epoch(f"sub/{name}"): KeyValue(b"", at, at, 0) for name, at in epochs.items()}
    values[LAYOUT.history] = KeyValue(record(history), history.vouched_at, 1, 0)
    values[LAYOUT.beacon] = KeyValue(b"", max([2, *epochs.values()]), 2, 0)
    return Snapshot(values, revision, CLUSTER)


class TestBundle:
    """What a node verifies with while something is missing."""

    def test_a_restored_etcd_takes_no_revocation_back_and_proves_nothing(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(100, FIRST, alice=95))
        bundle.prove(Beacon(95), 1.0)
        assert bundle.proven_at == 1.0
        changes = bundle.load(snapshot(50, FIRST))
        assert not changes.another
        assert bundle.epochs.revokes(["sub/alice"], 90) == "sub/alice"
        bundle.prove(Beacon(40), 2.0)
        bundle.apply([Event(LAYOUT.barrier("b"), b"", 51)], 51)
        assert bundle.proven_at == 1.0
        assert bundle.revision == 100

    def test_barriers_of_a_restored_etcd_are_not_acknowledged(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(100, FIRST))
        bundle.continuity.report_loss("for a test")
        assert not bundle.apply([Event(LAYOUT.barrier("b"), b"", 101)], 101).barriers

    def test_the_answer_has_everything_read_anew(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(100, FIRST, alice=95))
        bundle.load(snapshot(50, FIRST))
        answer = Event(LAYOUT.history, record(SECOND), 60)
        with pytest.raises(ReadAnew):
            bundle.apply([answer], 60)
        changes = bundle.load(snapshot(60, SECOND, bob=58))
        assert changes.another
        assert bundle.revision == 60
        assert bundle.epochs.revokes(["sub/alice"], 0) is None
        assert bundle.proven_at is None
        bundle.prove(Beacon(58), 3.0, history_generation=0)  # sent in the history before
        assert bundle.proven_at is None
        bundle.prove(Beacon(58), 3.0, history_generation=1)
        assert bundle.proven_at == 3.0

    def test_who_noticed_nothing_reads_anew_too(self) -> None:
        """Cut off since before the backup, it resumes without a break, and meets another history."""
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(20, FIRST))
        with pytest.raises(ReadAnew):
            bundle.apply([Event(LAYOUT.history, record(SECOND), 60)], 60)

    def test_a_proof_waits_for_the_vouch_that_is_wanted(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.continuity.require_vouch_after(30)
        bundle.load(snapshot(40, FIRST))
        bundle.prove(Beacon(2), 5.0)
        assert bundle.proven_at is None
        bundle.apply([Event(LAYOUT.history, record(FIRST), 41)], 41)
        assert bundle.proven_at == 5.0

    def test_a_record_that_cannot_be_read_is_left_alone_and_takes_nothing_away(self) -> None:
        bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
        bundle.load(snapshot(20, FIRST))
        newer = mesh_pb2.History(format=99, history_id="first").SerializeToString()
        bundle.apply([Event(LAYOUT.history, newer, 30)], 30)
        assert not bundle.continuity.lost
        assert bundle.continuity.history == FIRST
        for value in (b"\xff", newer, mesh_pb2.History(format=1).SerializeToString()):
            with pytest.raises(RecordError):
                read_history(value, 1)
