"""Which lifetimes are in force: how long what was issued can still be good, whichever replica issued it.

CREDMESH_TOKEN_LIFETIME may be another one at another replica, and may have been before a restart. Whoever revokes or
retires has to outlast what was issued under any of them. So each lifetime that is issued under has a key,
`auth/lifetimes/<seconds>`, under a lease that is longer than the lifetime and that whoever issues under it renews: the
key is there for as long as anything that was issued under it is good, and then goes by itself.

Why no race leaves an epoch too short. Let a credential expire at `now` + N, and rest on what was read at revision S.

- Its issuer took `now`, then made sure that the lease of N's key was renewed lately, then read at S, and found the key
  there. So the key was put at some revision C <= S, and is there until the credential has expired, and longer.
- A revocation reads the keys at R, and commits at E > R. Where E <= S, the issuer has read its epoch, and answers for
  it: no lease matters. So let S < E, and hence C < E. If C <= R, the revocation has found the key, or it had gone with
  all that was issued under it. If R < C, as when a replica just came up with a longer lifetime, the commit fails: it
  compares the mark, which every lifetime that comes into force moves on. Then the revocation reads anew.

Retiring a signing key needs no comparison: whether it may go is decided after it last signed, by the lifetimes that are
in force then, and those under which it signed still are if anything that it signed is good.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from authsvc.settings import AuthSettings
from authsvc.store.shared_leases import LEEWAY, SharedLeases
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, KeyValue, LeaseNotFound, Put, Snapshot, Unchanged
from interceptors.keyspace import Layout
from interceptors.trust.bundle import TrustBundle
from interceptors.trust.continuity import Continuity

__all__ = ["InForce", "Lifetime", "longest_issued", "read_in_force"]

_log: Final = logging.getLogger("credmesh.auth.lifetimes")

_TRIES: Final = 3
_DIGITS: Final = 9
"""Of the longest lifetime that can be set: ten years."""


def longest_issued(settings: AuthSettings) -> int:
    """Seconds that what a replica issues is good for at most: tokens, and what nodes have cached of opaque sessions."""
    return math.ceil(max(settings.token_lifetime, settings.resolve_ttl))


@dataclass(frozen=True, slots=True)
class InForce:
    """The lifetimes that are in force.

    longest    seconds; 0 if there is none, since nothing that was issued is good any more
    unchanged  holds as long as no other has come into force
    """

    longest: int
    unchanged: Unchanged


def read_in_force(etcd: EtcdClient, layout: Layout) -> InForce:
    """Reads which lifetimes are in force, linearizably. May raise EtcdUnavailable."""
    found = dict(etcd.read_prefix(layout.lifetimes).values)
    mark = found.pop(layout.lifetimes, None)
    longest = max(_lifetimes(found, layout), default=0)
    return InForce(longest, Unchanged(layout.lifetimes, 0 if mark is None else mark.mod_revision))


class Lifetime:
    """The lifetime under which a replica issues, in seconds. Thread-safe.

    witness  what this replica's own node has seen of etcd, once there is a node: nothing is issued from an etcd that
             has lost some of it, since what is lost may be a revocation
    """

    def __init__(self, etcd: EtcdClient, layout: Layout, seconds: int) -> None:
        self.witness: TrustBundle | None = None
        self._witnessed = (layout.beacon, layout.history)
        self._etcd = etcd
        self._key = f"{layout.lifetimes}{seconds}"
        self._mark = layout.lifetimes
        self._leases = SharedLeases(etcd, layout, seconds + LEEWAY, clock=None)

    def read(self, *keys: str) -> Snapshot:
        """Reads keys in one linearizable transaction, as of which this lifetime is in force.

        Whoever issues on what is read must have taken the time from which the lifetime counts before. Costs nothing but
        the read, unless nothing was issued under this lifetime lately. May raise EtcdUnavailable, and Refusal
        MESH_NOT_READY if etcd has lost a part of its history: see ContinuityGuard, which answers that.
        """
        for _ in range(_TRIES):
            lease = self._leases.lease()
            found = self._read(*keys)
            stored = found.values.get(self._key)
            if stored is not None and stored.lease == lease:
                return found
            try:
                # The mark goes with it, so that whoever has just read which lifetimes are in force reads anew.
                self._etcd.commit(
                    [Unchanged(self._key, 0 if stored is None else stored.mod_revision)],
                    [Put(self._key, b"", lease), Put(self._mark, b"")],
                )
            except LeaseNotFound:
                # Somebody revoked it by hand, or etcd is another one than before.
                self._leases.forget()
        raise EtcdUnavailable(f"{self._key} was put {_TRIES} times, and is not there; does somebody delete it?")

    def _read(self, *keys: str) -> Snapshot:
        witness = self.witness
        if witness is None:
            return self._etcd.read(self._key, *keys)
        since = witness.continuity.observed
        found = self._etcd.read(self._key, *keys, *self._witnessed)
        if witness.record_read(found, since) is not Continuity.UNBROKEN:
            raise Refusal(Reason.MESH_NOT_READY, "etcd has lost a part of its history; nothing is issued from it")
        return found


def _lifetimes(found: dict[str, KeyValue], layout: Layout) -> Iterator[int]:
    for key, entry in found.items():
        name = key.removeprefix(layout.lifetimes)
        # What is not ours must not keep epochs and retired keys for good.
        if entry.lease and name.isascii() and name.isdecimal() and len(name) <= _DIGITS:
            yield int(name)
        else:
            _log.error("left alone %s: it is no lifetime that a replica put; delete it", key)
