"""Group commit: the transactions of several threads in one request to etcd.

Each transaction succeeds or fails by itself, as it would alone. A thread that comes while a request is under way waits,
and the next request carries all transactions that have come meanwhile. So without concurrency there is no delay, and
under load the cost of a request is shared.

The thread that commits a group also prepares the group's transactions, one after the other. So they do not compete for
the interpreter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from interceptors.etcd.client import EtcdUnavailable, Transaction

__all__ = ["GroupCommit", "Prepare"]

_MAX_GROUP: Final = 32
"""etcd takes 128 conditions and operations, and subtracts those of the group from those of each of its transactions."""

_MAX_REQUEST_BYTES: Final = 512 * 1024
"""etcd takes requests of 1.5 MiB."""

Prepare = Callable[[], Transaction | None]
"""Prepares a transaction, in the thread that commits it. None if there is nothing to commit."""

CommitEach = Callable[[Sequence[Transaction]], Sequence[int | None]]
"""Commits transactions in one request. Returns the revision of each that succeeded, None for the others."""


class GroupCommit:
    """Commits transactions of several threads together. Thread-safe.

    The transactions must not depend on each other: a transaction writes its own key, which no other one compares.

    commit_each  commits a group; it runs in the thread of one of the callers
    timeout      seconds that a transaction waits for its group to be sent
    """

    def __init__(self, commit_each: CommitEach, *, timeout: float) -> None:
        self._commit_each = commit_each
        self._timeout = timeout
        self._lock = threading.Lock()
        self._waiting: list[_Pending] = []
        self._busy = False  # whether a thread commits a group, or was told to

    def commit(self, key: str, prepare: Prepare) -> int | None:
        """Commits a transaction. Returns its revision, or None if there is none or a condition does not hold.

        key: the key that the transaction writes. Two transactions of the same key are never in one group.

        Raises what `prepare` and `commit_each` raise. Raises EtcdUnavailable if the groups before are not answered in
        time: then the transaction was not sent.
        """
        pending = _Pending(key, prepare)
        with self._lock:
            leads = not self._busy
            self._busy = True
            self._waiting.append(pending)
        if not leads:
            leads = self._wait(pending)
        if leads:
            self._commit_group(pending)
        if pending.error is not None:
            raise pending.error
        return pending.revision

    def _wait(self, pending: _Pending) -> bool:
        """Waits until the transaction is committed, or until this thread has to commit a group: then returns True."""
        if not pending.wake.acquire(timeout=self._timeout):
            with self._lock:
                if pending in self._waiting and not pending.leads:
                    self._waiting.remove(pending)
                    raise EtcdUnavailable("etcd does not answer the commits that were sent before")
            pending.wake.acquire()  # it is being committed, and a request to etcd ends in time
        return pending.leads

    def _commit_group(self, own: _Pending) -> None:
        """Commits a group that includes this thread's transaction, and passes the lead on to a waiting thread."""
        with self._lock:
            group = self._take_group(own)
        try:
            for prepared in _requests(group):
                self._commit(prepared)
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].wake.release()
                else:
                    self._busy = False
            for pending in group:
                if pending is not own:
                    pending.wake.release()

    def _take_group(self, own: _Pending) -> list[_Pending]:
        group, keys, rest = [own], {own.key}, []
        for pending in self._waiting:
            if pending is own:
                continue
            if len(group) < _MAX_GROUP and pending.key not in keys:
                group.append(pending)
                keys.add(pending.key)
            else:
                rest.append(pending)
        self._waiting = rest
        return group

    def _commit(self, prepared: Sequence[tuple[_Pending, Transaction]]) -> None:
        try:
            revisions = self._commit_each([transaction for _, transaction in prepared])
            for (pending, _), revision in zip(prepared, revisions, strict=True):
                pending.revision = revision
        except Exception as error:  # noqa: BLE001 -- each caller raises it
            for pending, _ in prepared:
                pending.error = error


class _Pending:
    """A transaction that waits to be committed, and its result."""

    __slots__ = ("error", "key", "leads", "prepare", "revision", "wake")

    def __init__(self, key: str, prepare: Prepare) -> None:
        self.key = key
        self.prepare = prepare
        self.leads = False
        self.revision: int | None = None
        self.error: Exception | None = None
        self.wake = threading.Lock()  # held until the thread is woken
        self.wake.acquire()


def _requests(group: Sequence[_Pending]) -> Iterator[list[tuple[_Pending, Transaction]]]:
    """Prepares the transactions of a group, and distributes them to requests that etcd takes."""
    request: list[tuple[_Pending, Transaction]] = []
    request_bytes = 0
    for pending in group:
        try:
            transaction = pending.prepare()
        except Exception as error:  # noqa: BLE001 -- its caller raises it, and the others are not affected
            pending.error = error
            continue
        if transaction is None:
            continue
        size = sum(len(getattr(operation, "value", b"")) for operation in transaction.operations)
        if request and request_bytes + size > _MAX_REQUEST_BYTES:
            yield request
            request, request_bytes = [], 0
        request.append((pending, transaction))
        request_bytes += size
    if request:
        yield request
