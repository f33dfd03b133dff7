"""Guessing of passwords is slowed, and logins of others are not."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from authsvc.accounts import login_throttle
from authsvc.accounts.login_throttle import LoginThrottle, delay_seconds
from interceptors.errors import Reason, Refusal

ADDRESS = "203.0.113.7"
ANOTHER = "203.0.113.8"


class Clock:
    """Seconds, as the test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _attempt(throttle: LoginThrottle, account: str, address: str, outcome: Reason | None) -> Reason | None:
    """The reason with which a login is refused whose check has this result; None if it is accepted."""
    try:
        with throttle.attempt(account=account, address=address):
            if outcome is not None:
                raise Refusal(outcome)
    except Refusal as refusal:
        return refusal.reason
    return None


def _fail(throttle: LoginThrottle, account: str = "alice", address: str = ADDRESS) -> Reason | None:
    return _attempt(throttle, account, address, Reason.CREDENTIAL_INVALID)


def _succeed(throttle: LoginThrottle, account: str = "alice", address: str = ADDRESS) -> Reason | None:
    return _attempt(throttle, account, address, None)


def test_after_too_many_failures_an_address_has_to_wait() -> None:
    throttle = LoginThrottle(per_account=3, per_address=0, clock=Clock())
    assert [_fail(throttle) for _ in range(3)] == [Reason.CREDENTIAL_INVALID] * 3
    assert _fail(throttle) is Reason.RATE_LIMITED
    assert _succeed(throttle) is Reason.RATE_LIMITED
    assert _succeed(throttle, account="bob") is None


def test_a_stranger_does_not_lock_the_user_out() -> None:
    throttle = LoginThrottle(per_account=3, per_address=0, clock=Clock())
    for _ in range(100):
        _fail(throttle)
    assert _succeed(throttle) is Reason.RATE_LIMITED
    assert _succeed(throttle, address=ANOTHER) is None
    assert _succeed(throttle) is Reason.RATE_LIMITED, "the user's login ended the stranger's delay"


def test_each_further_failure_doubles_the_delay() -> None:
    clock = Clock()
    throttle = LoginThrottle(per_account=2, per_address=0, clock=clock)
    _fail(throttle)
    for delay in (0, 1, 2, 4, 8):
        clock.now += delay - 0.5
        assert delay == 0 or _succeed(throttle) is Reason.RATE_LIMITED
        clock.now += 0.5
        assert _fail(throttle) is Reason.CREDENTIAL_INVALID
    clock.now += 16
    assert _succeed(throttle) is None
    assert _fail(throttle) is Reason.CREDENTIAL_INVALID, "the success did not end the delay"


def test_the_delay_has_a_bound_and_is_named() -> None:
    assert delay_seconds(10_000_000, 1) == 900
    clock = Clock()
    throttle = LoginThrottle(per_account=1, per_address=0, clock=clock)
    _fail(throttle)
    clock.now += 0.25
    with (
        pytest.raises(Refusal) as refused,
        throttle.attempt(account="alice", address=ADDRESS),
    ):
        pass
    assert "try again in 1 s" in refused.value.message


def test_failures_of_an_address_count_over_all_accounts() -> None:
    throttle = LoginThrottle(per_account=0, per_address=3)
    assert [_fail(throttle, account=f"user-{i}") for i in range(3)] == [Reason.CREDENTIAL_INVALID] * 3
    assert _succeed(throttle, account="bob") is Reason.RATE_LIMITED
    assert _succeed(throttle, account="bob", address=ANOTHER) is None


def test_the_addresses_of_one_network_are_one_caller() -> None:
    throttle = LoginThrottle(per_account=1, per_address=1, clock=Clock())
    _fail(throttle, address="2001:db8::1")
    assert _succeed(throttle, address="2001:db8::2") is Reason.RATE_LIMITED
    assert _succeed(throttle, address="2001:db8:0:1::1") is None


def test_only_failures_count() -> None:
    throttle = LoginThrottle(per_account=2, per_address=2)
    assert [_succeed(throttle) for _ in range(20)] == [None] * 20
    assert _attempt(throttle, "alice", ADDRESS, Reason.MESH_NOT_READY) is Reason.MESH_NOT_READY
    for _ in range(5):
        with contextlib.suppress(ValueError), throttle.attempt(account="alice", address=ADDRESS):
            raise ValueError("a bug is not a guess")
    assert _succeed(throttle) is None


def test_zero_means_no_limit() -> None:
    throttle = LoginThrottle(per_account=0, per_address=0)
    assert [_fail(throttle) for _ in range(100)] == [Reason.CREDENTIAL_INVALID] * 100


@pytest.mark.parametrize("right_guess", [True, False])
def test_guesses_sent_at_once_get_no_more_answers_than_the_limit(right_guess: bool) -> None:
    """All pass the first check. Beyond the limit the right guess gets the same answer as the wrong ones."""
    throttle = LoginThrottle(per_account=3, per_address=0, clock=Clock())
    count = 12
    all_in = threading.Barrier(count)
    turn = threading.Lock()
    answered = 0

    def guess(_: int) -> Reason | None:
        nonlocal answered
        try:
            with throttle.attempt(account="alice", address=ADDRESS):
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


def test_memory_does_not_grow_with_the_names_that_callers_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_throttle, "_MAX_REMEMBERED_PAIRS", 100)
    throttle = LoginThrottle(per_account=1, per_address=0, clock=Clock())
    for number in range(1000):
        assert _fail(throttle, account=f"user-{number}" * 100) is Reason.CREDENTIAL_INVALID
    assert len(throttle._failures) == 100
    assert _fail(throttle, account="user-999" * 100) is Reason.RATE_LIMITED
