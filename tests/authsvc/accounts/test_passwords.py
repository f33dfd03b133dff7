"""Passwords: argon2id, the same work for every user, and never more work than the bounds allow."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import argon2
import pytest
from prometheus_client import REGISTRY

from authsvc.accounts.passwords import PARAMETERS, Passwords, hash_password
from interceptors.errors import Reason, Refusal
from tests.authsvc.conftest import SMALL
from tests.support.waiting import wait_until


def _verified() -> float:
    return REGISTRY.get_sample_value("credmesh_password_hashes_total", {"purpose": "verify"}) or 0.0


def test_a_password_is_right_and_another_is_wrong(passwords: Passwords) -> None:
    stored = passwords.hash("correct horse")
    assert passwords.verify(stored, "correct horse")
    assert not passwords.verify(stored, "correct horsf")
    assert not passwords.verify(stored, "")


def test_the_stored_hash_is_salted_argon2id_by_rfc_9106() -> None:
    first, second = hash_password("correct horse"), hash_password("correct horse")
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert first != second
    assert argon2.extract_parameters(first) == PARAMETERS


def test_a_password_typed_on_another_keyboard_is_the_same(passwords: Passwords) -> None:
    assert passwords.verify(passwords.hash("caf\u00e9 au lait"), "cafe\u0301 au lait")


def test_an_unknown_user_costs_as_much_and_never_matches(passwords: Passwords) -> None:
    stored = passwords.hash("correct horse")
    before = _verified()
    assert not passwords.verify(stored, "wrong")
    for_somebody = _verified() - before
    assert not passwords.verify(None, "correct horse")
    assert _verified() - before == 2 * for_somebody == 2


def test_the_dummy_hash_has_the_parameters_of_real_hashes() -> None:
    """The parameters determine the time. If they differed, timing would reveal which users exist."""
    pool = Passwords(workers=1, parameters=SMALL)
    try:
        assert argon2.extract_parameters(pool._dummy_hash) == argon2.extract_parameters(pool.hash("x")) == SMALL
    finally:
        pool.close()


@pytest.mark.parametrize(
    "foreign", ["", "secret", "$argon2id$", "$2b$12$abcdefghijklmnopqrstuv", "$argon2id$v=19$m=1,t=1"]
)
def test_a_stored_value_that_is_no_hash_never_matches_and_costs_as_much(passwords: Passwords, foreign: str) -> None:
    for tried in ("secret", foreign):
        before = _verified()
        assert not passwords.verify(foreign, tried)
        assert _verified() - before == 1


def test_a_hash_of_other_parameters_is_outdated_and_still_checked(passwords: Passwords) -> None:
    weaker = hash_password(
        "correct horse",
        argon2.Parameters(
            type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=1, memory_cost=32, parallelism=1
        ),
    )
    assert passwords.verify(weaker, "correct horse")
    assert passwords.outdated(weaker)
    assert not passwords.outdated(passwords.hash("correct horse"))


def test_checks_beyond_the_limit_are_refused_and_the_others_served() -> None:
    """One worker and two waiting slots. Most of many are refused, none is lost, and later the slots are free again."""
    slow = argon2.Parameters(
        type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=2, memory_cost=32_768, parallelism=1
    )
    pool = Passwords(workers=1, max_waiting=2, parameters=slow)
    stored = pool.hash("correct horse")
    together = threading.Barrier(12)

    def attempt(_: int) -> bool | Reason:
        together.wait()
        try:
            return pool.verify(stored, "correct horse")
        except Refusal as refusal:
            return refusal.reason

    try:
        with ThreadPoolExecutor(12) as callers:
            outcomes = list(callers.map(attempt, range(12)))
        assert outcomes.count(True) >= 3
        assert outcomes.count(Reason.RATE_LIMITED) == 12 - outcomes.count(True) > 0
        assert pool.verify(stored, "correct horse")
    finally:
        pool.close()


def test_closing_leaves_no_thread() -> None:
    # Other tests of this process may have pools too, so only the workers that appear here count.
    before = set(threading.enumerate())
    pool = Passwords(workers=2, parameters=SMALL)
    pool.hash("correct horse")
    workers = [one for one in set(threading.enumerate()) - before if one.name.startswith("credmesh-password")]
    assert workers
    pool.close()
    wait_until(lambda: not any(worker.is_alive() for worker in workers), what="the workers to end")
