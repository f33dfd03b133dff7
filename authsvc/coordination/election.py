"""Leading: one replica does what must be done once, and stops when it is not sure any more that it may.

A replica leads while `auth/leader` lies in etcd under its lease. Its writes compare the create revision of that key
and what it holds, which is drawn anew for each term (the fence): a leader that was paused, cut off or deposed can
therefore write nothing, whatever it believes, and whatever etcd was restored to meanwhile. The lease is for finding a
successor quickly; only the fence is relied on.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import Gauge

from authsvc.store.records import FORMAT
from credmesh.store.v1 import auth_pb2
from interceptors.errors import CredmeshError
from interceptors.etcd.client import CreatedAt, EtcdClient, EtcdUnavailable, LeaseNotFound, Put, Snapshot, Unchanged
from interceptors.etcd.lease import KeptLease
from interceptors.etcd.mirror import Event, Mirror
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings

__all__ = ["LeaderElection", "LeaderJob", "StepDown"]

_log: Final = logging.getLogger("credmesh.auth.leader")
_leading: Final = Gauge("credmesh_auth_leading", "1 while this replica leads, else 0.")

_FIRST_BACKOFF: Final = 0.1
_LONGEST_BACKOFF: Final = 5.0
_LONGEST_WAIT: Final = 3600.0
_STOP_TIMEOUT: Final = 10.0


class StepDown(CredmeshError):
    """A job raises this where this replica cannot do what leading asks for, and another one may be able to.

    It gives the lead up, and does not campaign for so many `seconds`: time enough for whoever else there is.
    """

    def __init__(self, why: str, *, seconds: float) -> None:
        super().__init__(why)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class LeaderJob:
    """What the leader does: called with the fence, returns in how many seconds it wants to be called again.

    wakes_on  etcd prefixes; whatever changes below them has it called at once
    """

    run: Callable[[CreatedAt], float]
    wakes_on: Sequence[str] = ()
    name: str = "job"

    def __call__(self, fence: CreatedAt) -> float:
        """Does what is due."""
        return self.run(fence)


@dataclass(frozen=True, slots=True)
class _Term:
    """A time of leading: from winning the key until the lease is not certain any more."""

    fence: CreatedAt
    lease: KeptLease

    def alive(self) -> bool:
        return self.lease.alive(time.monotonic())


class LeaderElection:
    """Campaigns, and runs jobs while it leads. Each job has its own thread, so that a slow one delays no other.

    ttl   seconds until another replica may lead when this one falls silent
    jobs  callables that take the fence and return in how many seconds they want to be called again. They must put the
          fence among the conditions of every commit. Those that are a `LeaderJob` can be woken by events
    """

    def __init__(
        self,
        etcd_settings: EtcdSettings,
        layout: Layout,
        node_id: str,
        ttl: int,
        jobs: Sequence[LeaderJob | Callable[[CreatedAt], float]],
    ) -> None:
        # A request that takes as long as the lease is no use for keeping it.
        self._etcd = EtcdClient(replace(etcd_settings, timeout=min(etcd_settings.timeout, ttl / 3)))
        self._key = layout.leader
        self._node_id = node_id
        self._ttl = ttl
        self._changed = threading.Event()  # the leader's key changed, or the leader is to stop
        self._stopping = False
        self._lease: KeptLease | None = None
        self._term: _Term | None = None
        self._unsure = True  # whether the leader's key has to be read before anything is believed
        self._away = False
        self._stands_back_until = float("-inf")  # seconds of time.monotonic()
        self._thread = threading.Thread(target=self._run, name="credmesh-leader", daemon=True)
        self._runners = [
            _Runner(job if isinstance(job, LeaderJob) else LeaderJob(job), self._leads, self._stand_back)
            for job in jobs
        ]
        self._mirrors = [_doorbell(etcd_settings, self._key, self._look, "leader")]
        for runner in self._runners:
            self._mirrors += [
                _doorbell(etcd_settings, prefix, runner.wake, runner.job.name) for prefix in runner.job.wakes_on
            ]

    @property
    def leading(self) -> bool:
        """Whether this replica leads, as far as it can know. Only a commit with the fence is proof."""
        return self._leads() is not None

    def start(self) -> None:
        """Starts to campaign. Does not wait for etcd."""
        for runner in self._runners:
            runner.start()
        self._thread.start()
        for mirror in self._mirrors:
            mirror.start()

    def stop(self) -> None:
        """Lets running jobs finish, and gives the lead up at once, so that another replica can take it."""
        self._stopping = True
        for runner in self._runners:
            runner.stop()
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_TIMEOUT)
        for mirror in self._mirrors:
            mirror.stop()
        self._etcd.close()

    def wake(self) -> None:
        """Has every job called soon."""
        for runner in self._runners:
            runner.wake()

    def _leads(self) -> CreatedAt | None:
        """The fence, while this replica leads."""
        term = self._term
        return term.fence if term is not None and term.alive() else None

    def _look(self) -> None:
        self._unsure = True
        self._changed.set()

    def _stand_back(self, seconds: float) -> None:
        self._stands_back_until = time.monotonic() + seconds
        self._changed.set()

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF
        while not self._stopping:
            self._changed.clear()
            try:
                pause = self._next()
                backoff = _FIRST_BACKOFF
                self._tell_back()
            except EtcdUnavailable as error:
                self._tell_away(error)
                pause, backoff = backoff * random.uniform(0.5, 1.0), min(backoff * 2, self._ttl / 3)  # noqa: S311
            except Exception:  # noqa: BLE001 -- it is logged, and the mesh needs a leader
                _log.exception("leading failed unexpectedly; trying again")
                pause = _LONGEST_BACKOFF
            if self._term is not None and not self._term.alive():
                self._end_term("its lease could not be kept")
            self._changed.wait(pause)
        self._give_up()

    def _next(self) -> float:
        """Does what keeps or gets the lead, or stands back. Returns the seconds to wait."""
        left = self._stands_back_until - time.monotonic()
        if left > 0:
            if self._lease is not None:
                self._end_term("it stands back for others")
                self._step_down(self._lease)
            return left
        return self._campaign() if self._lease is None else self._keep(self._lease)

    def _campaign(self) -> float:
        """Takes the lead if nobody has it. Returns the seconds to wait."""
        if self._key in self._etcd.read(self._key).values:
            return float(self._ttl)  # its end is an event; this is in case that one is missed
        lease = self._lease = KeptLease(self._etcd, self._ttl)
        self._unsure = True
        record = auth_pb2.LeaderRecord(format=FORMAT, node_id=self._node_id, term=secrets.token_hex(16))
        value = record.SerializeToString()
        try:
            revision = self._etcd.commit([Unchanged(self._key, 0)], [Put(self._key, value, lease.id)])
        except LeaseNotFound:
            self._lease = None
            return 0.0
        # When the answer is lost, the lease is kept, and the next round reads whose the key is.
        if revision is None:
            return self._step_down(lease)
        self._begin_term(CreatedAt(self._key, revision, value), lease)
        return self._ttl / 3

    def _keep(self, lease: KeptLease) -> float:
        """Keeps the lease, and the lead if it has it. Returns the seconds to wait."""
        certain_until = lease.certain_until
        if not lease.renew():
            self._lease = None
            self._end_term("its lease ran out")
            return 0.0
        if time.monotonic() >= certain_until:
            # Late, but the lease had lived on. A job that asked meanwhile waits for a next term, and there is none.
            self.wake()
        if self._unsure or self._term is None:
            self._unsure = False
            try:
                entry = self._etcd.read(self._key).values.get(self._key)
            except EtcdUnavailable:
                self._unsure = True
                raise
            if entry is None or entry.lease != lease.id:
                self._end_term("its key is gone or another's")
                return self._step_down(lease)
            self._begin_term(CreatedAt(self._key, entry.create_revision, entry.value), lease)
        return self._ttl / 3

    def _step_down(self, lease: KeptLease) -> float:
        self._lease = None
        lease.revoke()
        return 0.0

    def _begin_term(self, fence: CreatedAt, lease: KeptLease) -> None:
        if self._term is not None and self._term.fence == fence:
            return
        self._term = _Term(fence, lease)
        _leading.set(1)
        _log.info("this replica leads, since revision %d", fence.create_revision)
        self.wake()

    def _end_term(self, why: str) -> None:
        if self._term is not None:
            self._term = None
            _leading.set(0)
            _log.warning("this replica does not lead any more: %s", why)

    def _give_up(self) -> None:
        self._term = None
        _leading.set(0)
        if self._lease is not None:
            try:
                self._lease.revoke()
            except EtcdUnavailable:
                _log.info("etcd does not answer; another replica can lead in %d s", self._ttl)

    def _tell_away(self, error: EtcdUnavailable) -> None:
        if not self._away:
            self._away = True
            _log.warning("cannot keep up who leads, trying on: %s", error)

    def _tell_back(self) -> None:
        if self._away:
            self._away = False
            _log.info("etcd answers again")


class _Runner:
    """The thread of one job: calls it when it is due, or woken, as long as this replica leads."""

    def __init__(
        self, job: LeaderJob, fence: Callable[[], CreatedAt | None], stand_back: Callable[[float], None]
    ) -> None:
        self.job: Final = job
        self._fence = fence
        self._stand_back = stand_back
        self._woken = threading.Event()
        self._stopping = False
        self._away = False
        self._thread = threading.Thread(target=self._run, name=f"credmesh-leader-{job.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_TIMEOUT)

    def wake(self) -> None:
        self._woken.set()

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF
        pause = _LONGEST_WAIT
        while True:
            self._woken.wait(min(max(pause, 0.0), _LONGEST_WAIT))
            # Cleared before the job looks at etcd: what happens while it runs wakes it again.
            self._woken.clear()
            if self._stopping:
                return
            fence = self._fence()
            if fence is None:
                pause = _LONGEST_WAIT  # the next term begins with a wake
                continue
            try:
                pause = self.job(fence)
                backoff = _FIRST_BACKOFF
                self._away = False
            except StepDown as asked:
                self._stand_back(asked.seconds)
                pause = _LONGEST_WAIT  # the next term begins with a wake
            except EtcdUnavailable as error:
                if not self._away:
                    self._away = True
                    _log.warning("%s waits for etcd: %s", self.job.name, error)
                pause, backoff = backoff * random.uniform(0.5, 1.0), min(backoff * 2, _LONGEST_BACKOFF)  # noqa: S311
            except Exception:  # noqa: BLE001 -- it is logged, and the job must go on
                _log.exception("%s failed unexpectedly; trying again in %.0f s", self.job.name, _LONGEST_BACKOFF)
                pause = _LONGEST_BACKOFF


def _doorbell(settings: EtcdSettings, prefix: str, ring: Callable[[], None], name: str) -> Mirror:
    """Calls `ring` whenever something below the prefix may have changed."""

    def on_snapshot(_snapshot: Snapshot) -> None:
        ring()

    def on_events(_events: Sequence[Event], _revision: int) -> None:
        ring()

    return Mirror(settings, prefix, on_snapshot=on_snapshot, on_events=on_events, name=f"{name}-doorbell")
