"""Watching over etcd's history: beginning it, vouching for it, and answering the loss of a part of it.

What is lost with a part of the history are revocations, and the revisions by which credentials are told from newer
ones. Neither can be brought back. So nothing that was issued before may count any more: all signing keys go, every
session ends, everyone's epoch is put, and another history begins, all in one commit. Nodes read everything anew when
they see it, and forget whatever they had accepted. Everybody signs in again, by the accounts as of the backup.

Every replica looks, and answers a loss itself. It goes by what it remembers, which has to be there still, also when
etcd has gone on since and all its numbers are higher. Whoever makes a receipt has it remembered first.

When nodes ask for it (see interceptors.trust.continuity_monitor) the leader vouches for the history, or whoever is
there if nobody leads: it writes a mark, makes sure that nothing is missing, and vouches only if the mark is still
there. An etcd that was
restored in between does not have it.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import Counter

from authsvc.audit import audit
from authsvc.continuity.watermark import Watermark
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.coordination.election import LeaderJob
from authsvc.revocation.revoker import Revoker
from authsvc.store.records import FORMAT, RecordError, parse_record
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.clock import ticks
from interceptors.etcd.client import (
    Compacted,
    CreatedAt,
    Delete,
    EtcdClient,
    EtcdUnavailable,
    KeyValue,
    NoneSince,
    Put,
    Snapshot,
    Unchanged,
)
from interceptors.keyspace import Layout, moved_beacon
from interceptors.scopes import EVERYONE
from interceptors.trust.continuity import (
    NOTHING_OBSERVED,
    Beacon,
    Continuity,
    Observation,
    assess_continuity,
    merge_observations,
    read_history,
)
from interceptors.trust.continuity_monitor import OUT_OF_TOUCH_SECONDS, ContinuityMonitor

__all__ = ["ContinuityGuard"]

_log: Final = logging.getLogger("credmesh.auth.history")
_losses: Final = Counter("credmesh_auth_history_losses", "Losses of etcd's history that this replica has answered.")

_LOOK_EVERY: Final = 1.0
_REMEMBER_EVERY: Final = 0.25
_KEPT: Final = 100
_ACTOR: Final = "history"

_VOUCH_PAUSE: Final = 0.1
_VOUCH_PAUSE_PER_NODE: Final = 0.0002
"""Seconds between two vouches: each is an event at every node."""
_SELDOM: Final = 3600.0


@dataclass(frozen=True, slots=True)
class _Found:
    """What a look has found.

    record   the history's record; empty if there is none
    revision its revision; 0 if there is none
    """

    observed: Observation
    record: mesh_pb2.History
    revision: int


class ContinuityGuard:
    """Watches over the history. One per replica; `vouch` is a job of the leader.

    monitor    what the replica's own node has seen
    ack_tracker   the registrations, in which other nodes say what they have found missing
    watermark  what this replica remembers
    clock   seconds since 1970, for people to read
    """

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        node_id: str,
        monitor: ContinuityMonitor,
        ack_tracker: AckTracker,
        revocation: Revoker,
        watermark: Watermark,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._node_id = node_id
        self._monitor = monitor
        self._ack_tracker = ack_tracker
        self._revocation = revocation
        self._watermark = watermark
        self._clock = clock
        self._lock = threading.Lock()  # one look at a time: the thread's own, or the leader's
        self._woken = threading.Event()
        self._stopping = False
        self._away = False
        self._compacted = 0
        self._vouched_at = 0.0
        self._wanted_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="credmesh-history", daemon=True)
        self.vouch: Final = LeaderJob(self._vouch, wakes_on=(layout.nodes,), name="history")

    def start(self) -> None:
        """Looks once, and goes on looking in a thread. Does not wait for etcd."""
        self._monitor.listeners.append(self._woken.set)
        self._look_or_wait()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def note(self, beacon: Beacon, sent_at: float) -> None:
        """Remembers a commit that somebody is about to rely on, by the beacon that it has put. It is on disk then.

        sent_at: by interceptors.clock, when the commit was sent. If that was long ago, as where the process was paused,
        it may be lost already, and whoever did not know of it may have vouched for the etcd that lacks it. Then, and
        only then, etcd is asked; EtcdUnavailable if that does not have it, or cannot tell.
        """
        # Read first: what others note from here on is of the history that is begun below, or begun by them.
        noted = self._watermark.noted
        known, seen = self._watermark.observed.history, self._monitor.history
        if seen is not None and (known is None or known.history_id in seen.ancestors):
            # The node is quicker than the looks to learn of a history, and what is noted is of that.
            self._watermark.begin(Observation(seen.cluster_id, history=seen), noted)
        self._watermark.note(beacon)
        if ticks() - sent_at > OUT_OF_TOUCH_SECONDS and self._then(beacon.revision) != beacon:
            raise EtcdUnavailable(f"what was revoked at revision {beacon.revision} may be lost again; revoke once more")

    def look(self, nodes: Snapshot | None = None) -> _Found | None:
        """Compares what is there with what was seen, and does what follows. None unless nothing is missing.

        nodes: the registrations, if they were just read; by default what the ack_tracker has of them. Raises
        EtcdUnavailable.
        """
        with self._lock:
            noted = self._watermark.noted
            remembered, seen = self._watermark.observed, self._monitor.observed
            since = merge_observations(remembered, seen)
            found = self._read()
            continuity, why = self._judge([remembered, seen], since, found.observed)
            there = found.observed.history
            if there is None and since.history is None:
                self._begin(found)
                return None
            if continuity is Continuity.ANOTHER:
                _log.warning("%s", why)
                self._watermark.begin(found.observed, noted)
                return None
            noticed_by = self._node_id
            if continuity is Continuity.UNBROKEN and there is not None:
                claim = self._claim(there.history_id, nodes)
                if claim is None:
                    if _same(remembered, found.observed):
                        self._watermark.remember(found.observed)
                    else:
                        self._watermark.begin(found.observed, noted)
                    return found
                why, noticed_by = claim
            self._answer(found, since, why, noticed_by, noted)
            return None

    def _run(self) -> None:
        looked_at = time.monotonic()
        while not self._stopping:
            woken = self._woken.wait(_REMEMBER_EVERY)
            self._woken.clear()
            if self._stopping:
                return
            # What the node has seen is remembered once it was looked at: it may have followed an etcd that lacks what
            # is remembered here.
            behind = self._monitor.observed.beacon > self._watermark.observed.beacon
            if woken or behind or time.monotonic() >= looked_at + _LOOK_EVERY:
                looked_at = time.monotonic()
                self._look_or_wait()

    def _look_or_wait(self) -> None:
        try:
            found = self.look()
            self._away = False
            if found is not None:
                self._stand_in(found)
        except EtcdUnavailable as error:
            if not self._away:
                self._away = True
                _log.warning("cannot look at etcd's history, trying on: %s", error)
        except Exception:  # noqa: BLE001 -- it is logged, and somebody has to look
            _log.exception("looking at etcd's history failed unexpectedly; trying again")

    def _judge(self, known: Sequence[Observation], since: Observation, now: Observation) -> tuple[Continuity, str]:
        """Compares what is there with each thing that is known of its history, for neither vouches for the other."""
        for one in known:
            if not _same(one, since):
                continue  # it was followed by another, which the other one has seen
            continuity, why = assess_continuity(one, now)
            if continuity is Continuity.UNBROKEN and 0 < one.beacon < now.beacon:
                continuity, why = assess_continuity(one, now, self._then(one.beacon))
            if continuity is not Continuity.UNBROKEN:
                return continuity, why
        return Continuity.UNBROKEN, ""

    def _then(self, revision: int) -> Beacon | None:
        """The beacon as of a revision; None where that cannot be told any more."""
        try:
            entry = self._etcd.read_at(self._layout.beacon, revision).values.get(self._layout.beacon)
        except Compacted as error:
            if "compacted" not in str(error):
                raise EtcdUnavailable(f"etcd went back while it was looked at: {error}") from error
            if self._compacted != revision:
                self._compacted = revision
                _log.warning(
                    "revision %d, which is the last that was seen here, is compacted: that nothing is missing rests on "
                    "etcd's revision being higher, and an etcd that was restored may have got there by itself",
                    revision,
                )
            return None
        return Beacon(0) if entry is None else Beacon(entry.mod_revision, entry.value)

    def _read(self) -> _Found:
        found = self._etcd.read(self._layout.history, self._layout.beacon)
        beacon = found.values.get(self._layout.beacon)
        observation = Observation(found.cluster_id, found.revision)
        if beacon is not None:
            observation = replace(observation, beacon=beacon.mod_revision, beacon_value=beacon.value)
        entry = found.values.get(self._layout.history)
        if entry is None:
            return _Found(observation, mesh_pb2.History(), 0)
        try:
            history = read_history(entry.value, entry.mod_revision)
            record = parse_record(mesh_pb2.History, entry.value)
        except RecordError as error:
            # A newer replica may have written it. What this one could do about it would be a guess.
            raise EtcdUnavailable(f"{self._layout.history} cannot be used: {error}") from error
        return _Found(replace(observation, history=history), record, entry.mod_revision)

    def _claim(self, history_id: str, nodes: Snapshot | None) -> tuple[str, str] | None:
        """Whether a node says that this history has lost something: what it says, and which node."""
        if self._monitor.broken_history == history_id:
            return self._monitor.lost, self._node_id
        if nodes is None:
            records = {node_id: node.record for node_id, node in self._ack_tracker.registered.items()}
        else:
            records = dict(filter(None, (self._record(key, entry) for key, entry in nodes.values.items())))
        for node_id, record in records.items():
            if record.broken_history == history_id:
                return f"node {node_id} has seen more of it than is there", node_id
        return None

    def _record(self, key: str, entry: KeyValue) -> tuple[str, mesh_pb2.NodeRecord] | None:
        try:
            return self._layout.name(key, self._layout.nodes), parse_record(mesh_pb2.NodeRecord, entry.value)
        except RecordError:
            return None  # the ack_tracker has said so

    def _begin(self, found: _Found) -> None:
        """A mesh that is new, or was made before there were histories, is in its first one."""
        record = self._new(found, [])
        operations = [Put(self._layout.history, record.SerializeToString()), moved_beacon(self._layout)]
        revision = self._etcd.commit([Unchanged(self._layout.history, 0)], operations)
        if revision is not None:
            audit("history.begin", history_id=record.history_id, revision=revision)

    def _answer(self, found: _Found, since: Observation, why: str, noticed_by: str, noted: int) -> None:
        """Ends everything that was issued, and begins another history. Whoever is first does it for all."""
        layout = self._layout
        _log.critical(
            "etcd has lost a part of its history: %s. Whatever was issued before does not count any more: all signing "
            "keys are removed and every session ends. `credmesh history` tells what to look after",
            why,
        )
        highest = max(since.revision, self._monitor.observed.revision)
        lost = self._lost(found, since, why, noticed_by, highest)
        record = self._new(found, lost)
        request = auth_pb2.RotationRequest(format=FORMAT, actor=_ACTOR, requested_at=stamp(self._clock()))
        revision = self._revocation.revoke_all(
            [EVERYONE],
            actor=_ACTOR,
            reason=f"etcd has lost a part of its history: {why}",
            extra_conditions=[Unchanged(layout.history, found.revision)],
            extra_operations=[
                Put(layout.history, record.SerializeToString()),
                Delete(layout.keys, prefix=True),
                Delete(layout.vault, prefix=True),
                Delete(layout.signing),
                Delete(layout.sessions, prefix=True),
                # Those who waited for the nodes did so in another history.
                Delete(layout.barriers, prefix=True),
                Delete(layout.acks, prefix=True),
                Put(layout.rotation, request.SerializeToString()),
            ],
        )
        if revision is None:
            return  # another replica was quicker; the next look finds its answer
        _losses.inc()
        audit(
            "history.lost",
            history_id=lost[-1].history_id,
            next_history_id=record.history_id,
            reason=why,
            noticed_by=noticed_by,
            highest_revision=highest,
            etcd_revision=found.observed.revision,
            revision=revision,
        )
        self._watermark.begin(
            replace(NOTHING_OBSERVED, history=read_history(record.SerializeToString(), revision)), noted
        )

    def _lost(
        self, found: _Found, since: Observation, why: str, noticed_by: str, highest: int
    ) -> list[mesh_pb2.LostHistory]:
        """Every history that has ended, the one that ends now last."""
        known: dict[str, mesh_pb2.LostHistory] = {one.history_id: one for one in found.record.lost}
        if since.history is not None:
            for history_id in (*sorted(since.history.ancestors), since.history.history_id):
                known.setdefault(history_id, mesh_pb2.LostHistory(history_id=history_id))
        ends = found.record.history_id or (since.history.history_id if since.history is not None else "")
        known.pop(ends, None)
        known[ends] = mesh_pb2.LostHistory(
            history_id=ends,
            answered_at=stamp(self._clock()),
            highest_revision=highest,
            reason=why,
            noticed_by=noticed_by,
            answered_revision=found.observed.revision,
        )
        return list(known.values())[-_KEPT:]

    def _new(self, found: _Found, lost: list[mesh_pb2.LostHistory]) -> mesh_pb2.History:
        return mesh_pb2.History(
            format=FORMAT,
            history_id=secrets.token_hex(8),
            cluster_id=found.observed.cluster_id,
            began_at=stamp(self._clock()),
            lost=lost,
        )

    def _vouch(self, fence: CreatedAt) -> float:
        """Vouches for the history if a node has registered since that was last done."""
        pause = max(_VOUCH_PAUSE, len(self._ack_tracker.registered) * _VOUCH_PAUSE_PER_NODE)
        left = self._vouched_at + pause - time.monotonic()
        if left > 0:
            return left
        return self._vouch_once([fence], pause)

    def _stand_in(self, found: _Found) -> None:
        """Vouches if a node has been waiting for it for some time, as when nobody leads."""
        now = time.monotonic()
        if all(node.revision <= found.revision for node in self._ack_tracker.registered.values()):
            self._wanted_since = None
        elif self._wanted_since is None:
            self._wanted_since = now
        elif now - self._wanted_since >= _LOOK_EVERY:
            self._vouch_once([], _VOUCH_PAUSE)

    def _vouch_once(self, fence: Sequence[CreatedAt], pause: float) -> float:
        mark = secrets.token_hex(16).encode()
        marked_at = self._etcd.commit(fence, [Put(self._layout.check, mark)])
        if marked_at is None:
            return _SELDOM  # another one leads
        # It rests on the order: registrations, mark, look, vouch. The etcd that the vouch is committed to has the mark;
        # what that holds tells it from another's, which may be at the same revision of a restored etcd. And whoever has
        # registered after the mark is not vouched for: an etcd that was restored from a backup with the mark in it was
        # not looked at since.
        nodes = self._etcd.read_prefix(self._layout.nodes)
        found = self.look(nodes)
        if found is None:
            return _VOUCH_PAUSE
        if not _wanted(nodes.values, found.revision):
            return _SELDOM
        found.record.vouched_at.CopyFrom(stamp(self._clock()))
        self._etcd.commit(
            [
                *fence,
                Unchanged(self._layout.history, found.revision),
                Unchanged(self._layout.check, marked_at, mark),
                NoneSince(self._layout.nodes, marked_at),
            ],
            [Put(self._layout.history, found.record.SerializeToString()), moved_beacon(self._layout)],
        )
        self._vouched_at = time.monotonic()
        return pause


def _same(one: Observation, other: Observation) -> bool:
    """Whether both are of one history, as far as they know."""
    if one.history is None or other.history is None:
        return True
    return one.history.history_id == other.history.history_id


def _wanted(nodes: Mapping[str, KeyValue], vouched_at: int) -> bool:
    return any(entry.mod_revision > vouched_at for entry in nodes.values())
