"""Open streams are found by scope and by deadline, and each is ended exactly once."""

from __future__ import annotations

import gc
import math
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptors import Caller, Reason, Refusal
from interceptors.clock import ticks
from interceptors.node.open_streams import OpenStream, OpenStreams
from interceptors.scopes import EVERYONE, audience_scope, client_scope, key_scope, subject_scope
from interceptors.verification.verifier import KeyRevoked, VerifiedCredential
from tests.support.waiting import wait_until


def verified(subject: str = "alice", epoch: int = 10, kid: str = "k") -> VerifiedCredential:
    caller = Caller(subject, "app", f"session of {subject}", frozenset(), frozenset({"probe"}), 0.0, epoch)
    return VerifiedCredential(
        caller, "token", kid=kid, usable_until=time.time() + 60, session_ends_at=0.0, bundle_version=1
    )


class Opened:
    """An open stream that records how it was ended."""

    def __init__(
        self, streams: OpenStreams, who: VerifiedCredential, *, seconds: float = 60, freshness: float | None = None
    ) -> None:
        self.refusals: list[Refusal] = []
        self.stream = OpenStream(
            "/m", who, ticks() + seconds, follows_session=False, end=self.refusals.append, freshness=freshness
        )
        streams.add(self.stream)


@pytest.fixture
def streams() -> Iterator[OpenStreams]:
    one = OpenStreams()
    yield one
    one.stop()


def test_no_stream_is_added_without_a_thread_that_watches_deadlines(
    streams: OpenStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be out of threads for a moment."""
    with monkeypatch.context() as patched:

        def no_thread(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Opened(streams, verified(), seconds=60)
        assert len(streams) == 0
    one = Opened(streams, verified(), seconds=0.1)
    wait_until(lambda: one.refusals)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=20),
    st.sampled_from("abc"),
    st.integers(0, 20),
)
def test_exactly_the_older_streams_of_the_scope_end(opened: list[tuple[str, int]], subject: str, epoch: int) -> None:
    streams = OpenStreams()
    every = [Opened(streams, verified(who, at)) for who, at in opened]
    ended = streams.revoke(subject_scope(subject), epoch)
    for one, (who, at) in zip(every, opened, strict=True):
        assert bool(one.refusals) == (who == subject and at < epoch)
    assert ended == sum(bool(one.refusals) for one in every)
    assert len(streams) == len(every) - ended
    assert streams.revoke(subject_scope(subject), epoch) == 0
    streams.stop()


def test_a_following_stream_outlives_a_retired_key_but_not_a_revoked_one(streams: OpenStreams) -> None:
    who = verified()
    ends: list[Refusal] = []
    streams.add(OpenStream("/m", who, ticks() + 60, follows_session=True, end=ends.append))

    def retired(_: VerifiedCredential) -> None:
        raise Refusal(Reason.KEY_UNKNOWN, "it was removed")

    def revoked(one: VerifiedCredential) -> None:
        raise KeyRevoked(one)

    after = who.usable_until + 1
    assert streams.recheck(retired, now=after, unbroken=True) == 0
    assert streams.recheck(revoked, now=after, unbroken=True) == 1
    assert [type(refusal) for refusal in ends] == [KeyRevoked]


def test_a_keys_scope_ends_streams_of_any_claimed_epoch(streams: OpenStreams) -> None:
    one, other = Opened(streams, verified(epoch=1 << 60)), Opened(streams, verified(epoch=0, kid="k2"))
    assert streams.revoke(key_scope("k"), 11) == 1
    assert [refusal.reason for refusal in one.refusals] == [Reason.KEY_UNKNOWN]
    assert not other.refusals


@pytest.mark.parametrize("scope", [EVERYONE, client_scope("app"), audience_scope("probe")])
def test_the_older_streams_of_a_shared_scope_end(streams: OpenStreams, scope: str) -> None:
    older, newer = Opened(streams, verified("alice", 10)), Opened(streams, verified("bob", 11))
    assert streams.revoke(client_scope("another app"), 11) == 0
    assert streams.revoke(scope, 11) == 1
    assert [refusal.reason for refusal in older.refusals] == [Reason.CREDENTIAL_REVOKED]
    assert not newer.refusals


def test_a_removed_stream_does_not_keep_its_call_in_memory(streams: OpenStreams) -> None:
    """A stream may have been removed long before its deadline, under a token that is valid for hours."""
    one = Opened(streams, verified(), seconds=300)
    call = weakref.ref(one)
    one.stream.end = lambda _refusal, one=one: None  # type: ignore[misc]
    streams.remove(one.stream)
    del one
    gc.collect()
    assert call() is None


def test_streams_that_come_and_go_do_not_wake_the_thread(streams: OpenStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waking it for each of them would cost more than all the rest of opening a stream."""
    Opened(streams, verified(), seconds=300)
    wait_until(lambda: streams._wakes_at > 0)
    wakes: list[None] = []
    monkeypatch.setattr(streams._wake, "notify", lambda: wakes.append(None))
    for _ in range(100):
        streams.remove(Opened(streams, verified(), seconds=300).stream)
    assert not wakes
    Opened(streams, verified(), seconds=0)
    assert wakes


def test_without_streams_the_thread_sleeps_until_the_next_one(streams: OpenStreams) -> None:
    """A process whose streams are over must not wake each second for them."""
    streams.remove(Opened(streams, verified(), seconds=300).stream)
    wait_until(lambda: streams._wakes_at == math.inf)
    one = Opened(streams, verified(), seconds=0.05)
    wait_until(lambda: one.refusals)


def test_streams_end_at_their_deadlines_and_not_before(streams: OpenStreams) -> None:
    late, soon, gone = (Opened(streams, verified(), seconds=seconds) for seconds in (60, 0.2, 0.2))
    streams.remove(gone.stream)
    wait_until(lambda: soon.refusals)
    assert ticks() >= soon.stream.deadline
    assert [refusal.reason for refusal in soon.refusals] == [Reason.CREDENTIAL_EXPIRED]
    assert not late.refusals
    assert not gone.refusals
    assert len(streams) == 1


def test_a_nearer_deadline_overtakes_a_farther_one(streams: OpenStreams) -> None:
    Opened(streams, verified(), seconds=60)
    near = Opened(streams, verified(), seconds=0.1)
    wait_until(lambda: near.refusals, timeout=5)


def test_a_stream_that_cannot_be_ended_does_not_keep_others_open(streams: OpenStreams) -> None:
    def broken(refusal: Refusal) -> None:
        raise RuntimeError("no")

    streams.add(OpenStream("/m", verified(), ticks() + 60, follows_session=False, end=broken))
    others = [Opened(streams, verified()) for _ in range(3)]
    assert streams.revoke(subject_scope("alice"), 11) == 4
    assert all(other.refusals for other in others)


def test_memory_does_not_grow_with_streams_that_are_over(streams: OpenStreams) -> None:
    for _ in range(20_000):
        streams.remove(Opened(streams, verified(), seconds=300).stream)
    assert len(streams) == 0
    assert len(streams._deadlines) < 5000
    assert not streams._by_scope


def test_streams_open_and_close_while_scopes_are_revoked(streams: OpenStreams) -> None:
    """In any order, a stream is either ended once or removed, and no index keeps it."""
    ended: list[int] = []

    def work(number: int) -> None:
        for turn in range(200):
            one = Opened(streams, verified(f"user-{turn % 5}", epoch=turn))
            if turn % 3:
                streams.remove(one.stream)
            ended.append(len(one.refusals))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for subject in range(5):
            streams.revoke(subject_scope(f"user-{subject}"), 1000)
    for subject in range(5):
        streams.revoke(subject_scope(f"user-{subject}"), 1000)
    assert len(streams) == 0
    assert not streams._by_scope
    assert max(ended) <= 1


class Proofs:
    """When a node last proved its freshness."""

    def __init__(self) -> None:
        self.at: float | None = ticks()

    def __call__(self) -> float | None:
        return self.at


def test_only_a_strict_stream_ends_when_the_node_is_too_stale_for_it() -> None:
    """The node may be cut off from the revocation that ends the stream."""
    proofs = Proofs()
    streams = OpenStreams(proofs)
    strict, looser, free = (Opened(streams, verified(), freshness=freshness) for freshness in (0.3, 60, None))
    wait_until(lambda: strict.refusals)
    assert proofs.at is not None
    assert ticks() - proofs.at > 0.3
    assert [refusal.reason for refusal in strict.refusals] == [Reason.MESH_STALE]
    assert not looser.refusals
    assert not free.refusals
    assert len(streams) == 2
    streams.stop()


def test_a_strict_stream_stays_open_while_the_node_proves_its_freshness() -> None:
    proofs = Proofs()
    streams = OpenStreams(proofs)
    strict = Opened(streams, verified(), freshness=0.4)
    begun = ticks()

    def proving() -> bool:
        proofs.at = ticks()
        return ticks() > begun + 1.2

    wait_until(proving)
    assert not strict.refusals
    wait_until(lambda: strict.refusals)  # without new proofs it ends
    streams.stop()


def test_a_strict_stream_ends_if_the_node_has_no_proof_at_all(streams: OpenStreams) -> None:
    strict = Opened(streams, verified(), freshness=60)
    wait_until(lambda: strict.refusals)
    assert strict.refusals[0].reason is Reason.MESH_STALE
