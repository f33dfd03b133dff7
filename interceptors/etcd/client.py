"""Requests to etcd: linearizable reads, conditional commits, leases, watches.

A request that can be repeated without harm is tried on every endpoint until its time is up. A commit is repeated only
if it certainly was not sent. Otherwise the caller has to find out whether it happened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc

from interceptors.backoff import Backoff
from interceptors.errors import SettingsError
from interceptors.etcd.channels import METADATA, Endpoint, certificates_stamp, open_endpoints
from interceptors.etcd.compat import import_etcdrpc
from interceptors.etcd.errors import (
    Compacted,
    EtcdFull,
    EtcdRefused,
    EtcdUnavailable,
    LeaseNotFound,
    RevisionNotReached,
    WaitTimedOut,
    never_sent,
    refusal,
    text_of,
)
from interceptors.etcd.records import (
    Condition,
    CreatedAt,
    Delete,
    KeyValue,
    NoneSince,
    Present,
    Put,
    Snapshot,
    Transaction,
    Unchanged,
    UnderLease,
    UnwrittenSince,
    collect_pairs,
    compare_messages,
    encode_key,
    operation_message,
    prefix_end,
)
from interceptors.etcd.watch import Watch
from interceptors.settings import EtcdSettings

__all__ = [
    "Compacted",
    "Condition",
    "CreatedAt",
    "Delete",
    "EtcdClient",
    "EtcdFull",
    "EtcdRefused",
    "EtcdUnavailable",
    "KeyValue",
    "LeaseNotFound",
    "NoneSince",
    "Present",
    "Put",
    "RevisionNotReached",
    "Snapshot",
    "Transaction",
    "Unchanged",
    "UnderLease",
    "UnwrittenSince",
]

_etcdrpc: Final = import_etcdrpc()

_MAX_KEYS_PER_PAGE: Final = 50_000
"""Large, since etcd counts all remaining keys for every page."""
_MAX_READ_ATTEMPTS: Final = 3
_FIRST_BACKOFF_SECONDS: Final = 0.02
_LONGEST_BACKOFF_SECONDS: Final = 0.2
_COMPLETION_SECONDS: Final = 30.0
"""How much longer etcd may work on a transaction than its caller waits for it; see `_read_only`."""


class EtcdClient:
    """A client of one etcd cluster. Thread-safe; connects when first used.

    Every request ends within its timeout: `settings.timeout` seconds, unless the method is given another.
    `read_prefix` sends one request for each page. A request raises EtcdUnavailable if no endpoint answered, and
    EtcdRefused (a subclass) if etcd refused it. The TLS files are read again when a request fails and they have been
    replaced on disk.
    """

    def __init__(self, settings: EtcdSettings) -> None:
        self.settings = settings
        self._stamp = certificates_stamp(settings)
        self._endpoints = open_endpoints(settings)
        self._current = 0  # the endpoint that is tried first; changes when that one fails
        self._lock = threading.Lock()  # between close() and new certificates
        self._closed = threading.Event()

    def read(self, *keys: str, timeout: float | None = None) -> Snapshot:
        """Reads keys in one linearizable transaction: all as of one revision, with everything committed before.

        timeout: seconds; by default that of the settings.
        """
        if not keys:
            # A transaction without a read is not linearizable: a member answers it from its own, possibly old, state.
            raise ValueError("read() needs at least one key")
        reads = _etcdrpc.TxnRequest(success=[_range(key) for key in keys])
        answer = self._request(_read_only, reads, timeout=timeout)
        values: dict[str, KeyValue] = {}
        for response in answer.responses:
            collect_pairs(response.response_range.kvs, values)
        return Snapshot(values, answer.header.revision, answer.header.cluster_id)

    def read_at(self, key: str, revision: int) -> Snapshot:
        """Reads one key as of a revision. Raises Compacted, or RevisionNotReached if etcd is below that revision."""
        request = _etcdrpc.RangeRequest(key=encode_key(key), revision=revision)
        answer = self._request(lambda endpoint: endpoint.kv.Range, request)
        values: dict[str, KeyValue] = {}
        collect_pairs(answer.kvs, values)
        return Snapshot(values, answer.header.revision, answer.header.cluster_id)

    def read_prefix(self, prefix: str, *, revision: int = 0, timeout: float | None = None) -> Snapshot:
        """Reads all keys that begin with `prefix`, at one revision: the newest committed one, or the one given.

        Sends one request for each page of _MAX_KEYS_PER_PAGE keys. Raises Compacted, or
        RevisionNotReached, for a given revision.

        timeout: seconds for each request; by default that of the settings.
        """
        for _ in range(_MAX_READ_ATTEMPTS):
            try:
                return self._read_pages(prefix, revision, timeout)
            except (Compacted, RevisionNotReached):
                # etcd was compacted, or restored, between two pages: read again at its newest revision. With a given
                # revision that would fail again.
                if revision:
                    raise
        raise EtcdUnavailable(f"etcd compacts faster than {prefix} can be read")

    def _read_pages(self, prefix: str, revision: int, timeout: float | None) -> Snapshot:
        values: dict[str, KeyValue] = {}
        start, end = encode_key(prefix), prefix_end(prefix)
        cluster_id = 0
        while True:
            request = _etcdrpc.RangeRequest(key=start, range_end=end, limit=_MAX_KEYS_PER_PAGE, revision=revision)
            answer = self._request(lambda endpoint: endpoint.kv.Range, request, timeout=timeout)
            # All pages are read at the revision of the first.
            revision = revision or answer.header.revision
            cluster_id = answer.header.cluster_id
            collect_pairs(answer.kvs, values)
            if not answer.more:
                return Snapshot(values, revision, cluster_id)
            start = answer.kvs[-1].key + b"\0"

    def count(self, prefix: str) -> int:
        """Returns how many keys begin with `prefix`."""
        request = _etcdrpc.RangeRequest(key=encode_key(prefix), range_end=prefix_end(prefix), count_only=True)
        return int(self._request(lambda endpoint: endpoint.kv.Range, request).count)

    def commit(
        self,
        conditions: Sequence[Condition],
        operations: Sequence[Put | Delete],
        *,
        timeout: float | None = None,
    ) -> int | None:
        """Executes all operations in one transaction if all conditions hold. Returns its revision, or None if not.

        After EtcdUnavailable the transaction may or may not have happened; after EtcdRefused it has not. Raises
        LeaseNotFound if a Put's lease is gone. etcd takes up to 128 conditions and 128 operations.

        timeout: seconds; by default that of the settings.
        """
        snapshot = self.commit_and_read(conditions, operations, (), timeout=timeout)
        return None if snapshot is None else snapshot.revision

    def commit_and_read(
        self,
        conditions: Sequence[Condition],
        operations: Sequence[Put | Delete],
        keys: Sequence[str],
        *,
        timeout: float | None = None,
    ) -> Snapshot | None:
        """Commits as `commit` does, and reads keys in the same transaction, as of its revision."""
        if not operations:
            # A member answers a transaction without any operation from its own state, which may be old.
            raise ValueError("a commit needs at least one operation")
        request = _etcdrpc.TxnRequest(
            compare=[message for condition in conditions for message in compare_messages(condition)],
            success=[*(operation_message(operation) for operation in operations), *(_range(key) for key in keys)],
        )
        answer = self._request(lambda endpoint: endpoint.kv.Txn, request, repeatable=False, timeout=timeout)
        if not answer.succeeded:
            return None
        values: dict[str, KeyValue] = {}
        for response in answer.responses[len(operations) :]:
            collect_pairs(response.response_range.kvs, values)
        return Snapshot(values, int(answer.header.revision), answer.header.cluster_id)

    def commit_each(
        self,
        transactions: Sequence[Transaction],
        *,
        conditions: Sequence[Condition],
        keys: Sequence[str],
        timeout: float | None = None,
    ) -> tuple[list[bool], Snapshot] | None:
        """Commits several transactions at one revision, in one request. Each succeeds or fails by itself.

        conditions: of all of them; if one does not hold, none is executed, and None is returned.
        keys: to be read in the same request, as of its revision.

        Returns which transactions succeeded, and what was read. The conditions of every transaction are evaluated
        before the operations of any. Two of them must not write the same key. Otherwise as `commit`.
        """
        request = _etcdrpc.TxnRequest(
            compare=[message for condition in conditions for message in compare_messages(condition)],
            success=[
                *(_etcdrpc.RequestOp(request_txn=_txn(transaction)) for transaction in transactions),
                *(_range(key) for key in keys),
            ],
        )
        answer = self._request(lambda endpoint: endpoint.kv.Txn, request, repeatable=False, timeout=timeout)
        if not answer.succeeded:
            return None
        values: dict[str, KeyValue] = {}
        for response in answer.responses[len(transactions) :]:
            collect_pairs(response.response_range.kvs, values)
        succeeded = [response.response_txn.succeeded for response in answer.responses[: len(transactions)]]
        return succeeded, Snapshot(values, int(answer.header.revision), answer.header.cluster_id)

    def grant(self, ttl: int, lease_id: int = 0) -> int:
        """Makes a lease of `ttl` seconds and returns its id; etcd chooses it for 0. An existing lease is no error."""
        try:
            request = _etcdrpc.LeaseGrantRequest(TTL=ttl, ID=lease_id)
            return int(self._request(lambda endpoint: endpoint.lease.LeaseGrant, request).ID)
        except EtcdRefused as error:
            if lease_id and "already exists" in str(error):
                return lease_id
            raise

    def keep_alive(self, lease_id: int) -> int:
        """Renews a lease and returns its remaining seconds; 0 means that the lease is gone."""
        request = _etcdrpc.LeaseKeepAliveRequest(ID=lease_id)
        return int(self._request(_keep_alive, request).TTL)

    def revoke_lease(self, lease_id: int, *, timeout: float | None = None) -> None:
        """Ends a lease and deletes its keys. A lease that is gone is no error. timeout: as for `read`."""
        request = _etcdrpc.LeaseRevokeRequest(ID=lease_id)
        try:
            self._request(lambda endpoint: endpoint.lease.LeaseRevoke, request, timeout=timeout)
        except LeaseNotFound:
            return

    def watch(self, prefix: str, start_revision: int) -> Watch:
        """Watches all keys that begin with `prefix`, from a revision on. Returns when etcd has confirmed the watch.

        Raises Compacted. A watch ends by an exception; the next one then uses another
        endpoint.
        """
        self._refuse_if_closed()
        index = self._current
        try:
            return Watch(
                self._endpoints[index],
                prefix,
                start_revision,
                timeout=self.settings.timeout,
                on_failure=lambda: self._skip_endpoint(index),
            )
        except ValueError as error:
            raise EtcdUnavailable("this etcd client was closed") from error

    def close(self) -> None:
        """Ends all requests and watches, which then raise EtcdUnavailable, and closes the connections."""
        with self._lock:
            self._closed.set()
        for endpoint in self._endpoints:
            endpoint.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _request(
        self,
        method: Callable[[Endpoint], Any],
        request: Any,
        *,
        repeatable: bool = True,
        timeout: float | None = None,
    ) -> Any:
        """Sends a request to one endpoint after another until one answers or the time is up."""
        deadline = time.monotonic() + (self.settings.timeout if timeout is None else timeout)
        backoff = Backoff(_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS)
        while True:
            for left in range(len(self._endpoints), 0, -1):
                self._refuse_if_closed()
                index = self._current
                remaining = max(deadline - time.monotonic(), 0.001)
                # An endpoint that does not answer must leave time for the others.
                share = remaining / left if repeatable else remaining
                try:
                    return method(self._endpoints[index])(request, timeout=share, metadata=METADATA)
                except grpc.RpcError as error:
                    failure = error
                except ValueError as error:
                    # gRPC raises this if the channel was closed meanwhile.
                    raise EtcdUnavailable("this etcd client was closed") from error
                refused = refusal(failure)
                if refused is not None:
                    raise refused from failure
                self._skip_endpoint(index)
                self._reload_certificates()
                if time.monotonic() >= deadline or not (repeatable or never_sent(failure)):
                    raise self._unavailable(failure) from failure
            self._closed.wait(min(backoff.next_delay(), max(deadline - time.monotonic(), 0)))

    def _skip_endpoint(self, index: int) -> None:
        # Threads that fail at the same endpoint skip it once, not once each.
        if self._current == index:
            self._current = (index + 1) % len(self._endpoints)

    def _reload_certificates(self) -> None:
        """Opens new connections if the TLS files were replaced: the old certificates may have expired."""
        stamp = certificates_stamp(self.settings)
        if stamp == self._stamp:
            return
        with self._lock:
            if stamp == self._stamp or self._closed.is_set():
                return
            try:
                endpoints = open_endpoints(self.settings)
            except SettingsError:
                # The files are being replaced at this moment; the next failure tries again.
                return
            old, self._endpoints, self._stamp = self._endpoints, endpoints, stamp
        for endpoint in old:
            endpoint.channel.close()

    def _unavailable(self, failure: grpc.RpcError) -> EtcdUnavailable:
        names = ", ".join(endpoint.name for endpoint in self._endpoints)
        return EtcdUnavailable(f"etcd at {names} does not answer ({text_of(failure)})")

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise EtcdUnavailable("this etcd client was closed")


def _txn(transaction: Transaction) -> Any:
    if not transaction.operations:
        raise ValueError("a transaction needs at least one operation")
    return _etcdrpc.TxnRequest(
        compare=[message for condition in transaction.conditions for message in compare_messages(condition)],
        success=[operation_message(operation) for operation in transaction.operations],
    )


def _range(key: str) -> Any:
    return _etcdrpc.RequestOp(request_range=_etcdrpc.RangeRequest(key=encode_key(key)))


def _read_only(endpoint: Endpoint) -> Callable[..., Any]:
    """Returns KV.Txn for transactions that only read. It stops waiting at the timeout, but lets etcd finish.

    etcd before 3.5.5 and 3.4.20 panics if such a transaction is cancelled, or its deadline passes, while etcd executes
    it (etcd-io/etcd#14110).
    """

    def read(request: Any, *, timeout: float, metadata: Any) -> Any:
        future = endpoint.kv.Txn.future(request, timeout=timeout + _COMPLETION_SECONDS, metadata=metadata)
        # gRPC cancels a call whose future is garbage-collected. A callback keeps the future alive until the call ends.
        future.add_done_callback(lambda _: None)
        try:
            return future.result(timeout)
        except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
            raise WaitTimedOut(f"no answer within {timeout:.3g} s") from None

    return read


def _keep_alive(endpoint: Endpoint) -> Callable[..., Any]:
    """Returns Lease.LeaseKeepAlive as a unary request: etcd offers it as a stream only."""

    def renew(request: Any, *, timeout: float, metadata: Any) -> Any:
        call = endpoint.lease.LeaseKeepAlive(iter([request]), timeout=timeout, metadata=metadata)
        try:
            return next(call)
        finally:
            call.cancel()

    return renew
