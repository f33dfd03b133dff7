"""Guessing is slowed, per account and per address, and no other login is."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from authsvc.accounts.login_throttle import LoginThrottle, address_of
from interceptors.errors import Reason, Refusal

PEER = "ipv4:203.0.113.7:50000"


def _attempt(throttle: LoginThrottle, account: str, peer: str, outcome: Reason | None) -> Reason | None:
    """The reason with which a login is refused whose check has this result; None if it is accepted."""
    try:
        with throttle.attempt(account=account, peer=peer):
            if outcome is not None:
                raise Refusal(outcome)
    except Refusal as refusal:
        return refusal.reason
    return None


def _fail(throttle: LoginThrottle, account: str = "alice", peer: str = PEER) -> Reason | None:
    return _attempt(throttle, account, peer, Reason.CREDENTIAL_INVALID)


def _succeed(throttle: LoginThrottle, account: str = "alice", peer: str = PEER) -> Reason | None:
    return _attempt(throttle, account, peer, None)


def test_after_too_many_failures_an_account_accepts_no_login() -> None:
    throttle = LoginThrottle(per_account=3, per_address=0)
    assert [_fail(throttle) for _ in range(3)] == [Reason.CREDENTIAL_INVALID] * 3
    assert _fail(throttle) is Reason.RATE_LIMITED
    assert _succeed(throttle) is Reason.RATE_LIMITED
    assert _succeed(throttle, account="bob") is None


def test_failures_of_an_address_count_over_all_accounts() -> None:
    throttle = LoginThrottle(per_account=0, per_address=3)
    assert [_fail(throttle, account=f"user-{i}") for i in range(3)] == [Reason.CREDENTIAL_INVALID] * 3
    assert _succeed(throttle, account="bob") is Reason.RATE_LIMITED
    assert _succeed(throttle, account="bob", peer="ipv4:203.0.113.8:50000") is None


def test_another_port_is_the_same_address() -> None:
    throttle = LoginThrottle(per_account=0, per_address=1)
    _fail(throttle, peer="ipv4:203.0.113.7:1")
    assert _succeed(throttle, peer="ipv4:203.0.113.7:2") is Reason.RATE_LIMITED


def test_only_failures_count() -> None:
    throttle = LoginThrottle(per_account=2, per_address=2)
    assert [_succeed(throttle) for _ in range(20)] == [None] * 20
    assert _attempt(throttle, "alice", PEER, Reason.MESH_NOT_READY) is Reason.MESH_NOT_READY
    for _ in range(5):
        with contextlib.suppress(ValueError), throttle.attempt(account="alice", peer=PEER):
            raise ValueError("a bug is not a guess")
    assert _succeed(throttle) is None


def test_zero_means_no_limit() -> None:
    throttle = LoginThrottle(per_account=0, per_address=0)
    assert [_fail(throttle) for _ in range(100)] == [Reason.CREDENTIAL_INVALID] * 100


@pytest.mark.parametrize("right_guess", [True, False])
def test_guesses_sent_at_once_get_no_more_answers_than_the_limit(right_guess: bool) -> None:
    """All pass the first check. Beyond the limit the right guess gets the same answer as the wrong ones."""
    throttle = LoginThrottle(per_account=3, per_address=0)
    count = 12
    all_in = threading.Barrier(count)
    turn = threading.Lock()
    answered = 0

    def guess(_: int) -> Reason | None:
        nonlocal answered
        try:
            with throttle.attempt(account="alice", peer=PEER):
                all_in.wait()
                turn.acquire()
                if not right_guess or answered < 4:
                    raise Refusal(Reason.CREDENTIAL_INVALID)
        except Refusal as refusal:
            return refusal.reason
        else:
            return None
        finally:
            answered += 1
            turn.release()

    with ThreadPoolExecutor(count) as guessers:
        outcomes = list(guessers.map(guess, range(count)))
    assert outcomes.count(Reason.CREDENTIAL_INVALID) == 3
    assert outcomes.count(Reason.RATE_LIMITED) == count - 3


def test_memory_does_not_grow_with_the_names_that_callers_send() -> None:
    throttle = LoginThrottle(per_account=1, per_address=0)
    seen = {throttle._bucket("account", f"user-{i}") for i in range(100_000)}
    assert len(seen) <= 65_536
    assert _fail(throttle, account="x" * 10_000) is Reason.CREDENTIAL_INVALID


def test_which_names_share_a_bucket_cannot_be_predicted() -> None:
    first, second = (LoginThrottle(per_account=1, per_address=1) for _ in range(2))
    names = [f"user-{i}" for i in range(8)]
    assert [first._bucket("account", name) for name in names] != [second._bucket("account", name) for name in names]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:33", "127.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:33", "2001:db8::/64"),
        ("ipv6:[2001:db8::2]:33", "2001:db8::/64"),
        ("ipv6:%5B::ffff:203.0.113.7%5D:33", "203.0.113.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:33", "fe80::/64"),
        ("unix:/run/credmesh.sock", "unix"),
        ("ipv4:nonsense", "ipv4:nonsense"),
        ("", ""),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    assert address_of(peer) == address
