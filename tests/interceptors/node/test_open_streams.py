"""The open calls: found by scope and by deadline, and none is forgotten or ended twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptors import Caller, Reason, Refusal
from interceptors.clock import ticks
from interceptors.node.open_streams import OpenCall, OpenCalls
from interceptors.scopes import key_scope, subject_scope
from interceptors.verification.verifier import KeyRevoked, VerifiedCredential
from tests.support.waiting import wait_until


def verified(subject: str = "alice", epoch: int = 10, kid: str = "k") -> VerifiedCredential:
    caller = Caller(subject, "app", f"session of {subject}", frozenset(), frozenset({"probe"}), 0.0, epoch)
    return VerifiedCredential(
        caller, "token", kid=kid, usable_until=time.time() + 60, session_ends_at=0.0, generation=1
    )


class Opened:
    """An open call that notes how it was ended."""

    def __init__(
        self, calls: OpenCalls, who: VerifiedCredential, *, seconds: float = 60, freshness: float | None = None
    ) -> None:
        self.refusals: list[Refusal] = []
        self.call = OpenCall(
            "/m", who, ticks() + seconds, following=False, end=self.refusals.append, freshness=freshness
        )
        calls.add(self.call)


@pytest.fixture
def calls() -> Iterator[OpenCalls]:
    one = OpenCalls()
    yield one
    one.stop()


def test_without_a_thread_that_watches_it_no_stream_is_kept(calls: OpenCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have as many as it can have, for a moment."""
    with monkeypatch.context() as patched:

        def no_thread(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Opened(calls, verified(), seconds=60)
        assert len(calls) == 0
    one = Opened(calls, verified(), seconds=0.1)
    wait_until(lambda: one.refusals)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=20),
    st.sampled_from("abc"),
    st.integers(0, 20),
)
def test_exactly_the_older_calls_of_the_scope_end(opened: list[tuple[str, int]], subject: str, epoch: int) -> None:
    calls = OpenCalls()
    every = [Opened(calls, verified(who, at)) for who, at in opened]
    ended = calls.revoke(subject_scope(subject), epoch)
    for one, (who, at) in zip(every, opened, strict=True):
        assert bool(one.refusals) == (who == subject and at < epoch)
    assert ended == sum(bool(one.refusals) for one in every)
    assert len(calls) == len(every) - ended
    assert calls.revoke(subject_scope(subject), epoch) == 0
    calls.stop()


def test_what_follows_its_session_outlives_a_key_that_retires_and_none_that_is_revoked(calls: OpenCalls) -> None:
    who = verified()
    ends: list[Refusal] = []
    calls.add(OpenCall("/m", who, ticks() + 60, following=True, end=ends.append))

    def retired(_: VerifiedCredential) -> None:
        raise Refusal(Reason.KEY_UNKNOWN, "it was removed")

    def revoked(one: VerifiedCredential) -> None:
        raise KeyRevoked(one)

    after = who.usable_until + 1
    assert calls.recheck(retired, now=after, unbroken=True) == 0
    assert calls.recheck(revoked, now=after, unbroken=True) == 1
    assert [type(refusal) for refusal in ends] == [KeyRevoked]


def test_a_keys_scope_ends_what_it_signed_however_new_that_claims_to_be(calls: OpenCalls) -> None:
    one, other = Opened(calls, verified(epoch=1 << 60)), Opened(calls, verified(epoch=0, kid="k2"))
    assert calls.revoke(key_scope("k"), 11) == 1
    assert [refusal.reason for refusal in one.refusals] == [Reason.KEY_UNKNOWN]
    assert not other.refusals


def test_calls_end_at_their_deadlines_and_not_before(calls: OpenCalls) -> None:
    late, soon, gone = (Opened(calls, verified(), seconds=seconds) for seconds in (60, 0.2, 0.2))
    calls.remove(gone.call)
    wait_until(lambda: soon.refusals)
    assert ticks() >= soon.call.deadline
    assert [refusal.reason for refusal in soon.refusals] == [Reason.CREDENTIAL_EXPIRED]
    assert not late.refusals
    assert not gone.refusals
    assert len(calls) == 1


def test_a_nearer_deadline_overtakes_a_farther_one(calls: OpenCalls) -> None:
    Opened(calls, verified(), seconds=60)
    near = Opened(calls, verified(), seconds=0.1)
    wait_until(lambda: near.refusals, timeout=5)


def test_a_call_that_cannot_be_ended_does_not_keep_the_others_alive(calls: OpenCalls) -> None:
    def broken(refusal: Refusal) -> None:
        raise RuntimeError("no")

    calls.add(OpenCall("/m", verified(), ticks() + 60, following=False, end=broken))
    others = [Opened(calls, verified()) for _ in range(3)]
    assert calls.revoke(subject_scope("alice"), 11) == 4
    assert all(other.refusals for other in others)


def test_memory_does_not_grow_with_calls_that_are_over(calls: OpenCalls) -> None:
    for _ in range(20_000):
        calls.remove(Opened(calls, verified(), seconds=300).call)
    assert len(calls) == 0
    assert len(calls._deadlines) < 5000
    assert not calls._by_scope


def test_calls_come_and_go_while_scopes_are_revoked(calls: OpenCalls) -> None:
    """Whatever the order, a call is ended exactly once or removed, and nothing is left behind."""
    ended: list[int] = []

    def work(number: int) -> None:
        for turn in range(200):
            one = Opened(calls, verified(f"user-{turn % 5}", epoch=turn))
            if turn % 3:
                calls.remove(one.call)
            ended.append(len(one.refusals))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for subject in range(5):
            calls.revoke(subject_scope(f"user-{subject}"), 1000)
    for subject in range(5):
        calls.revoke(subject_scope(f"user-{subject}"), 1000)
    assert len(calls) == 0
    assert not calls._by_scope
    assert max(ended) <= 1


class Proofs:
    """When a node last proved how fresh it is."""

    def __init__(self) -> None:
        self.at: float | None = ticks()

    def __call__(self) -> float | None:
        return self.at


def test_a_strict_stream_ends_when_the_node_grows_staler_than_its_rule_allows_and_no_other_does() -> None:
    """The node may be cut off from the very revocation that was to end the stream."""
    proofs = Proofs()
    calls = OpenCalls(proofs)
    strict, looser, free = (Opened(calls, verified(), freshness=freshness) for freshness in (0.3, 60, None))
    wait_until(lambda: strict.refusals)
    assert proofs.at is not None
    assert ticks() - proofs.at > 0.3
    assert [refusal.reason for refusal in strict.refusals] == [Reason.MESH_STALE]
    assert not looser.refusals
    assert not free.refusals
    assert len(calls) == 2
    calls.stop()


def test_a_strict_stream_goes_on_as_long_as_the_node_proves_itself_in_time() -> None:
    proofs = Proofs()
    calls = OpenCalls(proofs)
    strict = Opened(calls, verified(), freshness=0.4)
    begun = ticks()

    def proving() -> bool:
        proofs.at = ticks()
        return ticks() > begun + 1.2

    wait_until(proving)
    assert not strict.refusals
    wait_until(lambda: strict.refusals)  # and it was the proofs that kept it
    calls.stop()


def test_a_strict_stream_does_not_outlive_a_node_that_has_nothing_proven(calls: OpenCalls) -> None:
    strict = Opened(calls, verified(), freshness=60)
    wait_until(lambda: strict.refusals)
    assert strict.refusals[0].reason is Reason.MESH_STALE
