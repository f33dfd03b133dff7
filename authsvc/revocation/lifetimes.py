"""The lifetimes in force: how long a credential can still be accepted, whichever replica issued it.

CREDMESH_TOKEN_LIFETIME may differ between replicas, and may have been another before a restart. An epoch, and a retired
signing key, must outlast every credential that was issued under any of these lifetimes. So each lifetime has a key,
`auth/lifetimes/<seconds>`, under a lease that is longer than the lifetime. A replica that issues under the lifetime
renews the lease. The key exists as long as a credential that was issued under it can be accepted, then it expires.

A lifetime may come into force between a revocation's read of these keys and its commit. Then the commit fails, because
it compares a mark that every such lifetime puts, and the revocation reads again. docs/reliability.md has the proof,
under "How long an epoch must live".
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from authsvc.settings import AuthSettings
from authsvc.store.group_commit import GroupCommit, Prepare
from authsvc.store.shared_leases import LEEWAY_SECONDS, SharedLeases
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import (
    EtcdClient,
    EtcdUnavailable,
    KeyValue,
    LeaseNotFound,
    Put,
    Snapshot,
    Transaction,
    Unchanged,
    UnderLease,
)
from interceptors.keyspace import Layout
from interceptors.trust.bundle import TrustBundle
from interceptors.trust.continuity import Continuity, Observation

__all__ = ["IssuingLifetime", "LifetimesInForce", "longest_issued_lifetime", "read_lifetimes_in_force"]

_log: Final = logging.getLogger("credmesh.auth.lifetimes")

_MAX_ATTEMPTS: Final = 3
_MAX_LIFETIME_DIGITS: Final = 9
"""Of the longest lifetime that can be set, which is ten years."""


def longest_issued_lifetime(settings: AuthSettings) -> int:
    """How long, in seconds, nodes can accept what a replica with these settings issues.

    That is the lifetime of access tokens, or the time for which nodes cache opaque sessions, whichever is longer.
    """
    return math.ceil(max(settings.token_lifetime, settings.resolve_ttl))


@dataclass(frozen=True, slots=True)
class LifetimesInForce:
    """The lifetimes in force, as of one read.

    longest    seconds; 0 if no lifetime is in force, and no issued credential can be accepted any more
    condition  for a commit: no other lifetime has come into force since the read
    """

    longest: int
    condition: Unchanged


def read_lifetimes_in_force(etcd: EtcdClient, layout: Layout) -> LifetimesInForce:
    """Reads the lifetimes in force, linearizably. Raises EtcdUnavailable."""
    entries = dict(etcd.read_prefix(layout.lifetimes).values)
    mark = entries.pop(layout.lifetimes, None)
    longest = max(_parse_lifetimes(entries, layout), default=0)
    return LifetimesInForce(longest, Unchanged(layout.lifetimes, 0 if mark is None else mark.mod_revision))


class IssuingLifetime:
    """The lifetime under which a replica issues credentials. Thread-safe.

    seconds  the lifetime
    bundle   the trust bundle of the replica's own node. Every read is compared with what that node has observed: an
             etcd that has lost a part of its history may lack a revocation, and nothing may be issued from it
    """

    def __init__(self, etcd: EtcdClient, layout: Layout, seconds: int, *, bundle: TrustBundle | None = None) -> None:
        self._etcd = etcd
        self._bundle = bundle
        self._history_keys = (layout.beacon, layout.history)
        self._key = f"{layout.lifetimes}{seconds}"
        self._mark = layout.lifetimes
        self._leases = SharedLeases(etcd, layout, seconds + LEEWAY_SECONDS, clock=None)
        self._group = GroupCommit(self._commit_each, timeout=etcd.settings.timeout)

    def read_in_force(self, *keys: str) -> Snapshot:
        """Reads keys in one linearizable transaction, at a revision at which this lifetime is in force.

        Puts the lifetime in force first if it is not; usually this is one read. A caller that issues a credential on
        what is read must take the time from which the lifetime counts before this call.

        Raises EtcdUnavailable, and Refusal MESH_NOT_READY if etcd has lost a part of its history (the ContinuityGuard
        recovers from that).
        """
        for _ in range(_MAX_ATTEMPTS):
            lease = self._leases.lease()
            snapshot = self._read(*keys)
            stored = snapshot.values.get(self._key)
            if stored is not None and stored.lease == lease:
                return snapshot
            try:
                # The mark makes a revocation that has just read the lifetimes in force read them again.
                self._etcd.commit(
                    [Unchanged(self._key, 0 if stored is None else stored.mod_revision)],
                    [Put(self._key, b"", lease), Put(self._mark, b"")],
                )
            except LeaseNotFound:
                # The lease was revoked by hand, or etcd was replaced.
                self._leases.forget()
        raise EtcdUnavailable(f"{self._key} was put {_MAX_ATTEMPTS} times and is not there; is something deleting it?")

    def commit_in_force(self, key: str, prepare: Prepare) -> int | None:
        """Commits a transaction if this lifetime is in force at its revision. Returns the revision.

        For a credential all of whose preconditions are among the transaction's conditions: it replaces `read_in_force`
        and a commit. The time from which the lifetime counts must be taken in `prepare`, or before.

        key      the key that the transaction writes
        prepare  prepares the transaction, in the thread that commits it together with others; see GroupCommit

        Returns None if there is no transaction, if a condition does not hold, or if the lifetime is not in force;
        `read_in_force` puts it in force. Raises what `prepare` raises, and as `read_in_force`. After Refusal
        MESH_NOT_READY the commit may have happened, but in an etcd that has lost a part of its history: the credential
        must not be given out.
        """
        return self._group.commit(key, prepare)

    def _commit_each(self, transactions: Sequence[Transaction]) -> Sequence[int | None]:
        in_force = UnderLease(self._key, self._leases.lease())
        since = None if self._bundle is None else self._bundle.monitor.observed
        keys = () if self._bundle is None else self._history_keys
        committed = self._etcd.commit_each(transactions, conditions=[in_force], keys=keys)
        if committed is None:
            return [None] * len(transactions)
        succeeded, snapshot = committed
        if self._bundle is not None and since is not None:
            _refuse_unless_unbroken(self._bundle, snapshot, since)
        return [snapshot.revision if success else None for success in succeeded]

    def _read(self, *keys: str) -> Snapshot:
        if self._bundle is None:
            return self._etcd.read(self._key, *keys)
        since = self._bundle.monitor.observed
        snapshot = self._etcd.read(self._key, *keys, *self._history_keys)
        _refuse_unless_unbroken(self._bundle, snapshot, since)
        return snapshot


def _refuse_unless_unbroken(bundle: TrustBundle, snapshot: Snapshot, since: Observation) -> None:
    """Refusal MESH_NOT_READY if the snapshot lacks something that the node had observed before it was requested."""
    if bundle.record_read(since, snapshot) is not Continuity.UNBROKEN:
        raise Refusal(Reason.MESH_NOT_READY, "etcd has lost a part of its history; nothing is issued from it")


def _parse_lifetimes(entries: dict[str, KeyValue], layout: Layout) -> Iterator[int]:
    for key, entry in entries.items():
        name = key.removeprefix(layout.lifetimes)
        # A key that no replica has put must not keep epochs and retired signing keys forever.
        if entry.lease and name.isascii() and name.isdecimal() and len(name) <= _MAX_LIFETIME_DIGITS:
            yield int(name)
        else:
            _log.error("%s is ignored: no replica has put it, since it is no lifetime under a lease; delete it", key)
