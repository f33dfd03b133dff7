"""Requests to etcd: linearizable reads, conditional commits, leases, watches.

Whatever can be asked twice without harm is tried on every endpoint until the time is up. A commit is tried again only
if it certainly was not sent: whether it happened is otherwise for the caller to find out.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc

from interceptors.errors import SettingsError
from interceptors.etcd.channels import METADATA, Endpoint, certificates_stamp, open_endpoints
from interceptors.etcd.compat import import_etcdrpc
from interceptors.etcd.errors import (
    Compacted,
    EtcdFull,
    EtcdRefused,
    EtcdUnavailable,
    LeaseNotFound,
    TooLate,
    never_sent,
    refusal,
    text_of,
)
from interceptors.etcd.records import (
    CreatedAt,
    Delete,
    KeyValue,
    NoneSince,
    Put,
    Snapshot,
    Unchanged,
    collect,
    compare,
    encode_key,
    operate,
    prefix_end,
)
from interceptors.etcd.watch import Watch
from interceptors.settings import EtcdSettings

__all__ = [
    "Compacted",
    "CreatedAt",
    "Delete",
    "EtcdClient",
    "EtcdFull",
    "EtcdRefused",
    "EtcdUnavailable",
    "KeyValue",
    "LeaseNotFound",
    "NoneSince",
    "Put",
    "Snapshot",
    "Unchanged",
]

_etcdrpc: Final = import_etcdrpc()

# For every page etcd counts all keys that are left, so many small pages of very many keys would take it long.
_PAGE: Final = 50_000
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.2
_LET_FINISH: Final = 30.0


class EtcdClient:
    """A client of one etcd cluster. Safe to share among threads; connects when first used.

    Every request ends within `settings.timeout` seconds and raises EtcdUnavailable when nobody answered it, and
    EtcdRefused (an EtcdUnavailable too) when etcd answered that it will not do it. Certificates that are replaced on
    disk are taken up when connecting with the old ones fails.
    """

    def __init__(self, settings: EtcdSettings) -> None:
        self.settings = settings
        self._stamp = certificates_stamp(settings)
        self._endpoints = open_endpoints(settings)
        self._current = 0  # which endpoint is asked first; moves on when one fails
        self._lock = threading.Lock()  # between close() and new certificates
        self._closed = threading.Event()

    def read(self, *keys: str, timeout: float | None = None) -> Snapshot:
        """Reads keys in one linearizable transaction: all as of the same revision, nothing committed is missed.

        timeout: seconds; by default that of the settings.
        """
        if not keys:
            # etcd answers a transaction without any read from the member's own, possibly old, state.
            raise ValueError("read() needs at least one key")
        reads = [_etcdrpc.RequestOp(request_range=_etcdrpc.RangeRequest(key=encode_key(key))) for key in keys]
        answer = self._ask(_read_only, _etcdrpc.TxnRequest(success=reads), timeout=timeout)
        values: dict[str, KeyValue] = {}
        for response in answer.responses:
            collect(response.response_range.kvs, values)
        return Snapshot(values, answer.header.revision, answer.header.cluster_id)

    def read_at(self, key: str, revision: int) -> Snapshot:
        """Reads one key as it was at a revision. Raises Compacted if etcd has that revision no more, or not yet."""
        request = _etcdrpc.RangeRequest(key=encode_key(key), revision=revision)
        answer = self._ask(lambda endpoint: endpoint.kv.Range, request)
        values: dict[str, KeyValue] = {}
        collect(answer.kvs, values)
        return Snapshot(values, answer.header.revision, answer.header.cluster_id)

    def read_prefix(self, prefix: str, *, revision: int = 0, timeout: float | None = None) -> Snapshot:
        """Reads all keys that begin with `prefix`, at one revision: the newest committed one, or the one given.

        timeout: seconds for each of its requests, which take 10,000 keys; by default that of the settings. Raises
        Compacted if the given revision is compacted away.
        """
        for _ in range(3):
            try:
                return self._read_pages(prefix, revision, timeout)
            except Compacted:
                # Somebody compacted between two of the pages: begin anew. A revision that was asked for stays gone.
                if revision:
                    raise
        raise EtcdUnavailable(f"etcd compacts faster than {prefix} can be read")

    def _read_pages(self, prefix: str, revision: int, timeout: float | None) -> Snapshot:
        values: dict[str, KeyValue] = {}
        start, end = encode_key(prefix), prefix_end(prefix)
        cluster_id = 0
        while True:
            request = _etcdrpc.RangeRequest(key=start, range_end=end, limit=_PAGE, revision=revision)
            answer = self._ask(lambda endpoint: endpoint.kv.Range, request, timeout=timeout)
            # The first page sets the revision for all that follow.
            revision = revision or answer.header.revision
            cluster_id = answer.header.cluster_id
            collect(answer.kvs, values)
            if not answer.more:
                return Snapshot(values, revision, cluster_id)
            start = answer.kvs[-1].key + b"\0"

    def count(self, prefix: str) -> int:
        """How many keys begin with `prefix`."""
        request = _etcdrpc.RangeRequest(key=encode_key(prefix), range_end=prefix_end(prefix), count_only=True)
        return int(self._ask(lambda endpoint: endpoint.kv.Range, request).count)

    def commit(
        self,
        conditions: Sequence[Unchanged | CreatedAt | NoneSince],
        operations: Sequence[Put | Delete],
        *,
        timeout: float | None = None,
    ) -> int | None:
        """Carries out all operations in one transaction if all conditions hold, and returns its revision, else None.

        After EtcdUnavailable the transaction may or may not have happened; after EtcdRefused it has not. Raises
        LeaseNotFound if a Put's lease is gone. etcd takes up to 128 conditions and 128 operations.

        timeout: seconds; by default that of the settings.
        """
        if not operations:
            # Without an operation etcd does not bring the transaction before a quorum, and the answer may be old.
            raise ValueError("commit() needs at least one operation")
        request = _etcdrpc.TxnRequest(
            compare=[message for condition in conditions for message in compare(condition)],
            success=[operate(operation) for operation in operations],
        )
        answer = self._ask(lambda endpoint: endpoint.kv.Txn, request, repeatable=False, timeout=timeout)
        return int(answer.header.revision) if answer.succeeded else None

    def grant(self, ttl: int, lease_id: int = 0) -> int:
        """Makes a lease of `ttl` seconds and returns its id; etcd picks one for 0. An existing lease is fine."""
        try:
            request = _etcdrpc.LeaseGrantRequest(TTL=ttl, ID=lease_id)
            return int(self._ask(lambda endpoint: endpoint.lease.LeaseGrant, request).ID)
        except EtcdRefused as error:
            if lease_id and "already exists" in str(error):
                return lease_id
            raise

    def keep_alive(self, lease_id: int) -> int:
        """Renews a lease and returns the seconds it has from now; 0 means that it is gone."""
        request = _etcdrpc.LeaseKeepAliveRequest(ID=lease_id)
        return int(self._ask(_keep_alive, request).TTL)

    def revoke_lease(self, lease_id: int, *, timeout: float | None = None) -> None:
        """Ends a lease and deletes its keys. One that is gone is fine. timeout: seconds; by default the settings'."""
        request = _etcdrpc.LeaseRevokeRequest(ID=lease_id)
        try:
            self._ask(lambda endpoint: endpoint.lease.LeaseRevoke, request, timeout=timeout)
        except LeaseNotFound:
            return

    def watch(self, prefix: str, start_revision: int) -> Watch:
        """Watches all keys that begin with `prefix`, from a revision on; returns when etcd has confirmed the watch.

        Raises Compacted if the revision is compacted away. The watch ends by an exception; the next one is then asked
        of another endpoint.
        """
        self._refuse_if_closed()
        index = self._current
        try:
            return Watch(
                self._endpoints[index],
                prefix,
                start_revision,
                timeout=self.settings.timeout,
                failed=lambda: self._avoid(index),
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

    def _ask(
        self,
        method: Callable[[Endpoint], Any],
        request: Any,
        *,
        repeatable: bool = True,
        timeout: float | None = None,
    ) -> Any:
        """Makes a request of one endpoint after another until one answers or the time is up."""
        deadline = time.monotonic() + (self.settings.timeout if timeout is None else timeout)
        pause = _FIRST_PAUSE
        while True:
            for left in range(len(self._endpoints), 0, -1):
                self._refuse_if_closed()
                index = self._current
                remaining = max(deadline - time.monotonic(), 0.001)
                # An endpoint that swallows requests must leave time for the others.
                share = remaining / left if repeatable else remaining
                try:
                    return method(self._endpoints[index])(request, timeout=share, metadata=METADATA)
                except grpc.RpcError as error:
                    failure = error
                except ValueError as error:
                    # gRPC's way to say that the channel was closed meanwhile.
                    raise EtcdUnavailable("this etcd client was closed") from error
                refused = refusal(failure)
                if refused is not None:
                    raise refused from failure
                self._avoid(index)
                self._take_up_certificates()
                if time.monotonic() >= deadline or not (repeatable or never_sent(failure)):
                    raise self._unavailable(failure) from failure
            self._closed.wait(min(pause * random.uniform(0.5, 1.0), max(deadline - time.monotonic(), 0)))  # noqa: S311
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _avoid(self, index: int) -> None:
        # Threads that fail together move on by one endpoint, not by one each.
        if self._current == index:
            self._current = (index + 1) % len(self._endpoints)

    def _take_up_certificates(self) -> None:
        """Connects anew if the TLS files were replaced: that the old ones ran out may be why nobody answers."""
        stamp = certificates_stamp(self.settings)
        if stamp == self._stamp:
            return
        with self._lock:
            if stamp == self._stamp or self._closed.is_set():
                return
            try:
                endpoints = open_endpoints(self.settings)
            except SettingsError:
                # They are being replaced at this moment; the next failure looks again.
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


def _read_only(endpoint: Endpoint) -> Callable[..., Any]:
    """Txn, for transactions that only read: who asked stops waiting, and etcd is let finish all the same.

    Before 3.5.5 and 3.4.20, etcd ends with a panic if the deadline of such a transaction passes, or its caller cancels
    it, while it is being carried out (etcd-io/etcd#14110).
    """

    def read(request: Any, *, timeout: float, metadata: Any) -> Any:
        future = endpoint.kv.Txn.future(request, timeout=timeout + _LET_FINISH, metadata=metadata)
        # grpc cancels a call whose future is collected as garbage; one that has a callback is kept until it ends.
        future.add_done_callback(lambda _: None)
        try:
            return future.result(timeout)
        except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
            raise TooLate(f"no answer within {timeout:.3g} s") from None

    return read


def _keep_alive(endpoint: Endpoint) -> Callable[..., Any]:
    """LeaseKeepAlive as a plain request: etcd has it as a stream only."""

    def renew(request: Any, *, timeout: float, metadata: Any) -> Any:
        call = endpoint.lease.LeaseKeepAlive(iter([request]), timeout=timeout, metadata=metadata)
        try:
            return next(call)
        finally:
            call.cancel()

    return renew
