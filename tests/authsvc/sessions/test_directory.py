"""The directory of sessions: the live ones, in order and quickly, and those to end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.sessions.directory import SessionDirectory
from authsvc.sessions.index import SessionIndex
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import auth_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import KeyValue, Put, Snapshot
from interceptors.etcd.mirror import Event
from interceptors.keyspace import Layout
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from tests.support.replica import Clock, Replica
from tests.support.waiting import wait_until

LAYOUT = Layout("/test/")
START = 1_700_000_000.0


def _record(
    session_id: str, *, subject: str = "alice", epoch: int = 10, ends_at: float = START + 100, **members: object
) -> auth_pb2.SessionRecord:
    return auth_pb2.SessionRecord(
        format=1,
        session_id=session_id,
        subject=subject,
        client_id="password",
        kind=auth_pb2.SessionRecord.KIND_TOKENS,
        audiences=["storefront"],
        epoch=epoch,
        idle_expires_at=stamp(ends_at),
        expires_at=stamp(START + 1000),
        **members,  # type: ignore[arg-type]
    )


def _put(record: auth_pb2.SessionRecord, revision: int) -> Event:
    return Event(LAYOUT.session(record.session_id), record.SerializeToString(), revision)


def _delete(session_id: str, revision: int) -> Event:
    return Event(LAYOUT.session(session_id), None, revision)


def _revoke(scope: str, revision: int) -> Event:
    return Event(LAYOUT.epoch(scope), b"", revision)


def _ids(index: SessionIndex, now: float = START, **options: object) -> list[str]:
    records, _, total = index.page(size=1000, now=now, **options)  # type: ignore[arg-type]
    assert total == len(records)
    return [record.session_id for record in records]


def _to_end(index: SessionIndex, now: float = START) -> dict[str, bool]:
    return {session.session_id: session.revoked for session in index.sessions_to_end(limit=1000, now=now)}


@pytest.fixture
def index() -> SessionIndex:
    """An index with sessions a, b and c of alice, and d of bob."""
    made = SessionIndex(LAYOUT)
    made.apply_sessions([_put(_record(name), 20) for name in "cab"])
    made.apply_sessions([_put(_record("d", subject="bob"), 21)])
    return made


def test_sessions_are_in_the_order_of_their_ids(index: SessionIndex) -> None:
    assert _ids(index) == ["a", "b", "c", "d"]
    assert _ids(index, subject="alice") == ["a", "b", "c"]
    assert _ids(index, subject="nobody") == []


def test_a_page_begins_after_the_last_session_although_sessions_came_and_went(index: SessionIndex) -> None:
    records, more, total = index.page(size=2, now=START)
    assert [record.session_id for record in records] == ["a", "b"]
    assert (more, total) == (True, 4)
    index.apply_sessions([_delete("b", 30), _put(_record("aa"), 31), _put(_record("bb"), 32)])
    records, more, total = index.page(after="b", size=2, now=START)
    assert [record.session_id for record in records] == ["bb", "c"]
    assert (more, total) == (True, 5)
    assert index.page(after="c", size=2, now=START)[1] is False


def test_a_session_that_timed_out_is_to_end_and_not_listed(index: SessionIndex) -> None:
    index.apply_sessions([_put(_record("b", ends_at=START + 50), 30)])
    assert _ids(index, START + 49) == ["a", "b", "c", "d"]
    assert _ids(index, START + 50) == ["a", "c", "d"]
    assert _ids(index, START + 50, subject="alice") == ["a", "c"]
    assert _to_end(index, START + 50) == {"b": False}


def test_a_session_that_is_used_in_time_stays(index: SessionIndex) -> None:
    index.apply_sessions([_put(_record("a", ends_at=START + 500), 30)])
    assert _ids(index, START + 100) == ["a"]


def test_a_session_that_was_used_in_time_after_all_is_live_again(index: SessionIndex) -> None:
    """The clocks of two replicas differ, and for the other replica it was still live."""
    assert _ids(index, START + 200) == []
    index.apply_sessions([_put(_record("a", ends_at=START + 500), 30)])
    assert _ids(index, START + 200) == ["a"]
    assert "a" not in _to_end(index, START + 200)


def test_a_session_is_found_with_its_record_and_revision(index: SessionIndex) -> None:
    assert index.find("a") == (_record("a").SerializeToString(), 20)
    assert index.find("x") is None
    index.apply_epochs([_revoke("sub/alice", 30)])
    assert index.find("a") is None, "a revoked session is not live"


def test_an_own_commit_is_known_before_the_watch_brings_it(index: SessionIndex) -> None:
    own, others = _record("a", ends_at=START + 500), _record("a", ends_at=START + 900)
    index.record_commit(own, own.SerializeToString(), 30)
    assert index.find("a") == (own.SerializeToString(), 30)
    # The watch is behind, and brings an older change and then this one.
    index.apply_sessions([_put(_record("a"), 25)])
    index.apply_sessions([_put(own, 30)])
    assert index.find("a") == (own.SerializeToString(), 30)
    assert _ids(index, START + 100) == ["a"]
    index.apply_sessions([_put(others, 31)])
    index.record_commit(own, own.SerializeToString(), 30)
    assert index.find("a") == (others.SerializeToString(), 31)
    index.apply_sessions([_delete("a", 32)])
    assert index.find("a") is None


def test_an_own_commit_does_not_revive_a_session_that_ended_meanwhile(index: SessionIndex) -> None:
    index.apply_sessions([_delete("a", 31)])
    index.record_commit(_record("a"), _record("a").SerializeToString(), 30)
    assert index.find("a") is None
    assert _ids(index) == ["b", "c", "d"]


def test_a_session_that_was_ended_is_forgotten(index: SessionIndex) -> None:
    assert len(_to_end(index, START + 200)) == 4
    index.mark_ended(["a"])
    index.apply_sessions([_delete("a", 30), _delete("b", 31)])
    assert set(_to_end(index, START + 200)) == {"c", "d"}


@pytest.mark.parametrize("scope", [EVERYONE, client_scope("password"), audience_scope("storefront")])
def test_a_revocation_removes_every_session_of_its_scope(index: SessionIndex, scope: str) -> None:
    index.apply_epochs([_revoke(scope, 40)])
    assert _ids(index) == []
    assert _to_end(index) == dict.fromkeys("abcd", True)


def test_the_revocation_of_a_subject_keeps_other_subjects_sessions(index: SessionIndex) -> None:
    index.apply_epochs([_revoke(subject_scope("alice"), 40)])
    assert _ids(index) == ["d"]


def test_a_revocation_older_than_the_session_does_nothing(index: SessionIndex) -> None:
    index.apply_epochs([_revoke(subject_scope("alice"), 10)])
    assert _ids(index) == ["a", "b", "c", "d"]


def test_a_session_whose_revocation_arrived_first_is_not_listed(index: SessionIndex) -> None:
    """Sessions and epochs come by two watches, and either may be late."""
    index.apply_epochs([_revoke(subject_scope("carol"), 40)])
    index.apply_sessions([_put(_record("e", subject="carol", epoch=39), 39)])
    assert "e" not in _ids(index)
    index.apply_sessions([_put(_record("f", subject="carol", epoch=40), 41)])
    assert "f" in _ids(index)


def test_a_subject_with_special_characters_is_found_by_its_scope(index: SessionIndex) -> None:
    index.apply_sessions([_put(_record("e", subject="a/b%20 ü"), 30)])
    assert _ids(index, subject="a/b%20 ü") == ["e"]
    index.apply_epochs([_revoke(subject_scope("a/b%20 ü"), 40)])
    assert _ids(index, subject="a/b%20 ü") == []


def test_a_record_that_cannot_be_read_is_skipped(index: SessionIndex) -> None:
    index.apply_sessions([Event(LAYOUT.session("e"), b"\xff", 30), Event(LAYOUT.session("a"), b"\xff", 31)])
    assert _ids(index) == ["b", "c", "d"]


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcdefgh"), st.sampled_from(["x", "y"]), st.integers(1, 9)),
        st.tuples(st.just("delete"), st.sampled_from("abcdefgh"), st.just(""), st.just(0)),
        st.tuples(st.just("revoke"), st.sampled_from(["sub/x", "sub/y", EVERYONE]), st.just(""), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.just(""), st.integers(1, 5)),
        st.tuples(st.just("reload"), st.just(""), st.just(""), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(steps=_steps)
def test_the_index_agrees_with_a_plain_list(steps: list[tuple[str, str, str, int]]) -> None:
    index = SessionIndex(LAYOUT)
    records: dict[str, auth_pb2.SessionRecord] = {}
    revisions: dict[str, int] = {}
    epochs: dict[str, int] = {}
    now, revision = START, 100
    for what, name, subject, number in steps:
        revision += 1
        if what == "put":
            record = _record(name, subject=subject, epoch=revision - number, ends_at=now + number)
            records[name], revisions[name] = record, revision
            index.apply_sessions([_put(record, revision)])
        elif what == "delete":
            records.pop(name, None)
            index.apply_sessions([_delete(name, revision)])
        elif what == "revoke":
            epochs[name] = revision
            index.apply_epochs([_revoke(name, revision)])
        elif what == "wait":
            now += number
        else:
            index.load_sessions(
                Snapshot(
                    {
                        LAYOUT.session(name): KeyValue(record.SerializeToString(), revisions[name], 1, 0)
                        for name, record in records.items()
                    },
                    revision,
                )
            )
            index.load_epochs(
                Snapshot({LAYOUT.epoch(scope): KeyValue(b"", epoch, 1, 0) for scope, epoch in epochs.items()}, revision)
            )
        live = sorted(name for name, record in records.items() if _is_live(record, epochs, now))
        assert _ids(index, now) == live
        assert set(_to_end(index, now)) == set(records) - set(live)
        for who in ("x", "y"):
            assert _ids(index, now, subject=who) == [name for name in live if records[name].subject == who]


def _is_live(record: auth_pb2.SessionRecord, epochs: Mapping[str, int], now: float) -> bool:
    epoch = max(epochs.get(EVERYONE, 0), epochs.get(subject_scope(record.subject), 0))
    return epoch <= record.epoch and stamp(now).ToNanoseconds() < record.idle_expires_at.ToNanoseconds()


def test_a_hundred_thousand_sessions_are_listed_quickly() -> None:
    """The cost of a page must not depend on the number of sessions."""
    of_subject = [_record("x" * 22, subject=f"user-{number}").SerializeToString() for number in range(1000)]
    values = {
        LAYOUT.session(f"{number:022}"): KeyValue(of_subject[number % 1000], number + 1, number + 1, 0)
        for number in range(100_000)
    }
    index = SessionIndex(LAYOUT)
    index.load_sessions(Snapshot(values, 100_000))
    after = ""
    pages, events = [], []
    for _ in range(20):
        began = time.perf_counter()
        records, more, total = index.page(after=after, size=100, now=START)
        pages.append(time.perf_counter() - began)
        assert (len(records), more, total) == (100, True, 100_000)
        after = f"{int(after or -1) + 100:022}"
        began = time.perf_counter()
        index.apply_sessions([_delete(after, 200_000)])
        index.apply_sessions([Event(LAYOUT.session(after), of_subject[7], 200_001)])
        events.append(time.perf_counter() - began)
    assert index.page(subject="user-8", size=10, now=START)[2] == 100
    # The fastest run counts, since other processes share the machine. Each takes well below a millisecond.
    assert min(pages) < 0.02
    assert min(events) < 0.02


@pytest.fixture
def directory(replica: Replica, clock: Clock) -> Iterator[SessionDirectory]:
    """A directory that follows this test's etcd."""
    made = SessionDirectory(replica.settings.mesh.etcd, replica.layout, clock=clock)
    made.start()
    assert made.wait_ready(10)
    yield made
    made.stop()


def _online(directory: SessionDirectory, subject: str = "") -> list[str]:
    return [record.session_id for record in directory.page(subject=subject, size=1000)[0]]


def test_the_directory_follows_logins_refreshes_and_ends(replica: Replica, directory: SessionDirectory) -> None:
    sessions = [replica.login() for _ in range(3)]
    ids = sorted(credentials.session_id for credentials in sessions)
    wait_until(lambda: _online(directory) == ids, what="the logins to be listed")
    replica.refresh(sessions[0].refresh_token)
    replica.sessions.end(ids[1], actor="test", reason="test")
    wait_until(lambda: _online(directory) == [ids[0], ids[2]], what="the end to be listed")
    replica.revoke(subject_scope("alice"))
    wait_until(lambda: _online(directory) == [], what="the revocation to be listed")
    again = replica.login()
    wait_until(lambda: _online(directory, "alice") == [again.session_id], what="the new login to be listed")


def test_a_directory_that_starts_late_has_the_earlier_sessions(replica: Replica, clock: Clock) -> None:
    kept = replica.login().session_id
    replica.accounts.create_user("bob", "bob-password", scopes=[], audiences=["storefront"])
    replica.login(lambda: replica.accounts.authenticate_user("bob", "bob-password"))
    replica.revoke(subject_scope("bob"))
    late = SessionDirectory(replica.settings.mesh.etcd, replica.layout, clock=clock)
    late.start()
    try:
        assert late.wait_ready(10)
        assert _online(late) == [kept]
    finally:
        late.stop()


def test_a_directory_that_has_not_read_etcd_yet_refuses_to_list(replica: Replica, clock: Clock) -> None:
    unstarted = SessionDirectory(replica.settings.mesh.etcd, replica.layout, clock=clock)
    with pytest.raises(Refusal) as refused:
        unstarted.page(size=10)
    assert refused.value.reason is Reason.MESH_NOT_READY
    unstarted.stop()


def test_foreign_values_among_the_sessions_are_skipped(replica: Replica, directory: SessionDirectory) -> None:
    replica.etcd.commit([], [Put(replica.layout.session("foreign"), b"\xff not ours")])
    replica.etcd.commit([], [Put(replica.layout.epoch(session_scope("x")), b"\xff")])
    credentials = replica.login()
    wait_until(lambda: _online(directory) == [credentials.session_id], what="the login to be listed")
