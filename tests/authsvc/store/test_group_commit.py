"""Group commit: transactions of several threads share a request, and each succeeds or fails as it would alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from authsvc.store.group_commit import GroupCommit
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put, Transaction, Unchanged
from interceptors.settings import EtcdSettings
from tests.support.waiting import wait_until


class HeldRequests:
    """Commits groups in memory. Each request waits until the test answers it."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.may_answer = threading.Semaphore(0)
        self.error: Exception | None = None

    def commit_each(self, transactions: Sequence[Transaction]) -> list[int | None]:
        self.groups.append([transaction.operations[0].key for transaction in transactions])
        assert self.may_answer.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        # Transactions of keys that begin with "no" fail.
        return [None if key.startswith("no") else len(self.groups) for key in self.groups[-1]]


def _commit(group: GroupCommit, key: str, value: bytes = b"") -> int | None:
    return group.commit(key, lambda: Transaction([], [Put(key, value)]))


def _waiting(group: GroupCommit) -> int:
    return len(group._waiting)


def test_transactions_that_come_during_a_request_share_the_next_one() -> None:
    requests = HeldRequests()
    group = GroupCommit(requests.commit_each, timeout=10)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(_commit, group, "a")
        wait_until(lambda: requests.groups == [["a"]], what="the first request")
        others = {key: pool.submit(_commit, group, key) for key in ("b", "no-c", "d")}
        wait_until(lambda: _waiting(group) == 3, what="the others to wait")
        requests.may_answer.release()
        assert first.result() == 1
        wait_until(lambda: len(requests.groups) == 2, what="the second request")
        assert sorted(requests.groups[1]) == ["b", "d", "no-c"]
        requests.may_answer.release()
        assert {key: future.result() for key, future in others.items()} == {"b": 2, "no-c": None, "d": 2}
    requests.may_answer.release()
    assert _commit(group, "e") == 3, "the group commit did not become idle"


def test_transactions_of_the_same_key_are_never_in_one_group() -> None:
    requests = HeldRequests()
    group = GroupCommit(requests.commit_each, timeout=10)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(_commit, group, "a") for _ in range(4)]
        for number in range(4):
            wait_until(lambda number=number: len(requests.groups) == number + 1, what="the next request")  # type: ignore[misc]
            requests.may_answer.release()
        assert sorted(future.result() or 0 for future in futures) == [1, 2, 3, 4]
    assert requests.groups == [["a"]] * 4


def test_a_group_is_bounded_in_number_and_bytes() -> None:
    requests = HeldRequests()
    group = GroupCommit(requests.commit_each, timeout=10)
    with ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(_commit, group, "first")]
        wait_until(lambda: requests.groups, what="the first request")
        futures += [pool.submit(_commit, group, f"small-{number}") for number in range(40)]
        futures += [pool.submit(_commit, group, f"large-{number}", b"x" * 300_000) for number in range(3)]
        wait_until(lambda: _waiting(group) == 43, what="the others to wait")
        requests.may_answer.release(50)
        for future in futures:
            assert future.result() is not None
    assert max(len(keys) for keys in requests.groups) <= 32
    assert all(sum(key.startswith("large") for key in keys) <= 1 for keys in requests.groups)


def test_an_error_reaches_every_transaction_of_the_group_and_no_other() -> None:
    requests = HeldRequests()
    group = GroupCommit(requests.commit_each, timeout=10)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(_commit, group, "a")
        wait_until(lambda: requests.groups == [["a"]], what="the first request")
        others = [pool.submit(_commit, group, key) for key in ("b", "c")]
        wait_until(lambda: _waiting(group) == 2, what="the others to wait")
        requests.may_answer.release()
        assert first.result() == 1
        wait_until(lambda: len(requests.groups) == 2, what="the second request")
        requests.error = EtcdUnavailable("no answer")
        requests.may_answer.release()
        for other in others:
            with pytest.raises(EtcdUnavailable, match="no answer"):
                other.result()
    requests.error = None
    requests.may_answer.release()
    assert _commit(group, "d") == 3


def test_a_transaction_that_cannot_be_prepared_fails_alone() -> None:
    requests = HeldRequests()
    group = GroupCommit(requests.commit_each, timeout=10)

    def unprepared() -> Transaction:
        raise ValueError("not prepared")

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(_commit, group, "a")
        wait_until(lambda: requests.groups == [["a"]], what="the first request")
        failing = pool.submit(group.commit, "b", unprepared)
        empty = pool.submit(group.commit, "c", lambda: None)
        good = pool.submit(_commit, group, "d")
        wait_until(lambda: _waiting(group) == 3, what="the others to wait")
        requests.may_answer.release(2)
        assert first.result() == 1
        with pytest.raises(ValueError, match="not prepared"):
            failing.result()
        assert empty.result() is None
        assert good.result() == 2
    assert requests.groups == [["a"], ["d"]]
    assert group.commit("e", lambda: None) is None, "the group commit did not become idle"


def test_a_transaction_whose_group_is_not_sent_in_time_was_not_sent() -> None:
    requests = HeldRequests()
    group = GroupCommit(requests.commit_each, timeout=0.05)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_commit, group, "a")
        wait_until(lambda: requests.groups == [["a"]], what="the first request")
        with pytest.raises(EtcdUnavailable, match="does not answer the commits"):
            _commit(group, "b")
        requests.may_answer.release()
        assert first.result() == 1
    requests.may_answer.release()
    assert _commit(group, "c") == 2
    assert requests.groups == [["a"], ["c"]]


def test_no_concurrent_update_is_lost_on_a_real_etcd(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    """Threads increment counters by compare-and-set. Each increment that was reported as committed is there."""
    keys = [f"{etcd_settings.prefix}counter-{number}" for number in range(3)]

    def commit_each(transactions: Sequence[Transaction]) -> list[int | None]:
        committed = etcd_client.commit_each(transactions, conditions=[], keys=[])
        assert committed is not None
        succeeded, snapshot = committed
        return [snapshot.revision if success else None for success in succeeded]

    group = GroupCommit(commit_each, timeout=10)
    increments = [0, 0, 0]
    count_lock = threading.Lock()

    def work(number: int) -> None:
        for turn in range(30):
            index = (number + turn) % 3
            stored = etcd_client.read(keys[index]).values.get(keys[index])
            value, revision = (0, 0) if stored is None else (int(stored.value), stored.mod_revision)
            put = Put(keys[index], b"%d" % (value + 1))
            transaction = Transaction([Unchanged(keys[index], revision)], [put])
            if group.commit(keys[index], lambda transaction=transaction: transaction) is not None:  # type: ignore[misc]
                with count_lock:
                    increments[index] += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    values = etcd_client.read(*keys).values
    assert [int(values[key].value) for key in keys] == increments
    assert sum(increments) > 30
