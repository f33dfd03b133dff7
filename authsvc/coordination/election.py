"""Leader election: one replica does what must be done once.

A replica leads while the key `auth/leader` lies in etcd under the replica's lease. It stops its jobs when it cannot be
sure any more that the lease lives. Every commit of a job compares the fence: the key's create revision, and its value,
which is random for each term. So a leader that was paused, cut off or deposed can write nothing, not even into an etcd
that was restored meanwhile. Safety rests on the fence only. The lease lets a successor be found quickly.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import Gauge

from credmesh.store.v1 import auth_pb2
from interceptors.backoff import Backoff
from interceptors.errors import CredmeshError
from interceptors.etcd.client import CreatedAt, EtcdClient, EtcdUnavailable, LeaseNotFound, Put, Unchanged
from interceptors.etcd.lease import RenewableLease
from interceptors.etcd.mirror import change_notifier
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from interceptors.stored_records import FORMAT

__all__ = ["LeaderElection", "LeaderJob", "StepDown"]

_log: Final = logging.getLogger("credmesh.auth.leader")
_leading: Final = Gauge("credmesh_auth_leading", "1 while this replica leads, else 0.")

_MIN_BACKOFF_SECONDS: Final = 0.1
_MAX_BACKOFF_SECONDS: Final = 5.0
_MAX_WAIT_SECONDS: Final = 3600.0
_STOP_TIMEOUT_SECONDS: Final = 10.0


class StepDown(CredmeshError):
    """Raised by a job that this replica cannot do, if another replica may be able to.

    The replica gives up leadership and does not campaign for `seconds`, so that another replica can take over.
    """

    def __init__(self, why: str, *, seconds: float) -> None:
        super().__init__(why)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class LeaderJob:
    """A job of the leader.

    run       called with the fence; returns after how many seconds it wants to be called again
    wakes_on  etcd prefixes: a change below one of them has the job called at once
    name      for the log
    """

    run: Callable[[CreatedAt], float]
    wakes_on: Sequence[str] = ()
    name: str = "job"

    def __call__(self, fence: CreatedAt) -> float:
        """Runs the job once."""
        return self.run(fence)


@dataclass(frozen=True, slots=True)
class _Term:
    """A term of leadership: from winning the key until the lease is not certain to live any more."""

    fence: CreatedAt
    lease: RenewableLease

    def alive(self) -> bool:
        return self.lease.alive(time.monotonic())


class LeaderElection:
    """Campaigns for leadership, and runs the jobs while this replica leads.

    Each job has a thread, so that a slow job delays no other.

    ttl   seconds after which another replica may lead if this one falls silent
    jobs  each is called with the fence, which every commit of the job must have among its conditions. A plain callable
          is a `LeaderJob` that no event wakes
    """

    def __init__(
        self,
        etcd_settings: EtcdSettings,
        layout: Layout,
        node_id: str,
        ttl: int,
        jobs: Sequence[LeaderJob | Callable[[CreatedAt], float]],
    ) -> None:
        # A request that takes as long as the lease lives cannot keep the lease alive.
        self._etcd = EtcdClient(replace(etcd_settings, timeout=min(etcd_settings.timeout, ttl / 3)))
        self._key = layout.leader
        self._node_id = node_id
        self._ttl = ttl
        self._woken = threading.Event()
        self._stopping = False
        self._lease: RenewableLease | None = None
        self._term: _Term | None = None
        self._must_read_key = True  # the leader's key may have changed since it was read
        self._etcd_unavailable = False
        self._no_campaign_until = float("-inf")  # seconds of time.monotonic()
        self._thread = threading.Thread(target=self._run, name="credmesh-leader", daemon=True)
        self._runners = [
            _JobRunner(job if isinstance(job, LeaderJob) else LeaderJob(job), self._current_fence, self._pause_campaign)
            for job in jobs
        ]
        self._mirrors = [change_notifier(etcd_settings, self._key, self._on_key_change, name="leader")]
        for runner in self._runners:
            self._mirrors += [
                change_notifier(etcd_settings, prefix, runner.wake, name=f"{runner.job.name}-wakes")
                for prefix in runner.job.wakes_on
            ]

    @property
    def leading(self) -> bool:
        """Whether this replica leads, as far as it can know. Only a commit with the fence proves it."""
        return self._current_fence() is not None

    def start(self) -> None:
        """Starts the campaign. Does not wait for etcd."""
        for runner in self._runners:
            runner.start()
        self._thread.start()
        for mirror in self._mirrors:
            mirror.start()

    def stop(self) -> None:
        """Lets running jobs finish, then gives up leadership, so that another replica can lead at once."""
        self._stopping = True
        for runner in self._runners:
            runner.stop()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_TIMEOUT_SECONDS)
        for mirror in self._mirrors:
            mirror.stop()
        self._etcd.close()

    def wake(self) -> None:
        """Has every job called soon, if this replica leads."""
        for runner in self._runners:
            runner.wake()

    def _current_fence(self) -> CreatedAt | None:
        """The fence while this replica leads, else None."""
        term = self._term
        return term.fence if term is not None and term.alive() else None

    def _on_key_change(self) -> None:
        self._must_read_key = True
        self._woken.set()

    def _pause_campaign(self, seconds: float) -> None:
        self._no_campaign_until = time.monotonic() + seconds
        self._woken.set()

    def _run(self) -> None:
        backoff = Backoff(_MIN_BACKOFF_SECONDS, self._ttl / 3)
        while not self._stopping:
            self._woken.clear()
            try:
                pause = self._campaign_or_renew()
                backoff.reset()
                self._log_etcd_answers()
            except EtcdUnavailable as error:
                self._log_etcd_unavailable(error)
                pause = backoff.next_delay()
            except Exception:  # noqa: BLE001 -- it is logged, and the mesh needs a leader
                _log.exception("leader election failed unexpectedly; trying again")
                pause = _MAX_BACKOFF_SECONDS
            if self._term is not None and not self._term.alive():
                self._end_term("its lease could not be kept")
            self._woken.wait(pause)
        self._give_up_on_stop()

    def _campaign_or_renew(self) -> float:
        """Campaigns, or renews the lease. After a StepDown it gives up leadership. Returns the seconds to wait."""
        remaining = self._no_campaign_until - time.monotonic()
        if remaining > 0:
            if self._lease is not None:
                self._end_term("one of its jobs cannot be done by this replica, and another may be able to")
                self._revoke_lease(self._lease)
            return remaining
        return self._campaign() if self._lease is None else self._renew(self._lease)

    def _campaign(self) -> float:
        """Takes the leader's key if it is free. Returns the seconds to wait."""
        if self._key in self._etcd.read(self._key).values:
            return float(self._ttl)  # the key's end wakes this thread; this is for an event that was missed
        lease = self._lease = RenewableLease(self._etcd, self._ttl)
        self._must_read_key = True
        record = auth_pb2.LeaderRecord(format=FORMAT, node_id=self._node_id, term=secrets.token_hex(16))
        value = record.SerializeToString()
        try:
            revision = self._etcd.commit([Unchanged(self._key, 0)], [Put(self._key, value, lease.id)])
        except LeaseNotFound:
            self._lease = None
            return 0.0
        # If the answer is lost, the lease is kept, and the next round reads under which lease the key lies.
        if revision is None:
            return self._revoke_lease(lease)
        self._begin_term(CreatedAt(self._key, revision, value), lease)
        return self._ttl / 3

    def _renew(self, lease: RenewableLease) -> float:
        """Renews the lease, and begins or ends the term by what the key says. Returns the seconds to wait."""
        certain_until = lease.certain_until
        if not lease.renew():
            self._lease = None
            self._end_term("its lease ran out")
            return 0.0
        if time.monotonic() >= certain_until:
            # The renewal came late, but the lease lived on, and so does the term. A job that asked for the fence
            # meanwhile got none, and waits for the wake-up of a next term.
            self.wake()
        if self._must_read_key or self._term is None:
            self._must_read_key = False
            try:
                entry = self._etcd.read(self._key).values.get(self._key)
            except EtcdUnavailable:
                self._must_read_key = True
                raise
            if entry is None or entry.lease != lease.id:
                self._end_term("the leader's key is gone or under another lease")
                return self._revoke_lease(lease)
            self._begin_term(CreatedAt(self._key, entry.create_revision, entry.value), lease)
        return self._ttl / 3

    def _revoke_lease(self, lease: RenewableLease) -> float:
        self._lease = None
        lease.revoke()
        return 0.0

    def _begin_term(self, fence: CreatedAt, lease: RenewableLease) -> None:
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

    def _give_up_on_stop(self) -> None:
        self._term = None
        _leading.set(0)
        if self._lease is not None:
            try:
                self._lease.revoke()
            except EtcdUnavailable:
                _log.info("etcd does not answer; another replica can lead in %d s", self._ttl)

    def _log_etcd_unavailable(self, error: EtcdUnavailable) -> None:
        if not self._etcd_unavailable:
            self._etcd_unavailable = True
            _log.warning("leader election waits for etcd, trying again: %s", error)

    def _log_etcd_answers(self) -> None:
        if self._etcd_unavailable:
            self._etcd_unavailable = False
            _log.info("etcd answers again")


class _JobRunner:
    """The thread of one job: calls the job when it is due or woken, while this replica leads.

    current_fence  returns the fence while this replica leads, else None
    step_down      gives up leadership for so many seconds
    """

    def __init__(
        self, job: LeaderJob, current_fence: Callable[[], CreatedAt | None], step_down: Callable[[float], None]
    ) -> None:
        self.job: Final = job
        self._current_fence = current_fence
        self._step_down = step_down
        self._woken = threading.Event()
        self._stopping = False
        self._etcd_unavailable = False
        self._thread = threading.Thread(target=self._run, name=f"credmesh-leader-{job.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_TIMEOUT_SECONDS)

    def wake(self) -> None:
        self._woken.set()

    def _run(self) -> None:
        backoff = Backoff(_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS)
        pause = _MAX_WAIT_SECONDS
        while True:
            self._woken.wait(min(max(pause, 0.0), _MAX_WAIT_SECONDS))
            # Cleared before the job reads etcd: a change during the run wakes it again.
            self._woken.clear()
            if self._stopping:
                return
            fence = self._current_fence()
            if fence is None:
                pause = _MAX_WAIT_SECONDS  # the next term begins with a wake-up
                continue
            try:
                pause = self.job(fence)
                backoff.reset()
                self._etcd_unavailable = False
            except StepDown as request:
                self._step_down(request.seconds)
                pause = _MAX_WAIT_SECONDS  # the next term begins with a wake-up
            except EtcdUnavailable as error:
                if not self._etcd_unavailable:
                    self._etcd_unavailable = True
                    _log.warning("%s waits for etcd: %s", self.job.name, error)
                pause = backoff.next_delay()
            except Exception:  # noqa: BLE001 -- it is logged, and the job must go on
                _log.exception("%s failed unexpectedly; trying again in %.0f s", self.job.name, _MAX_BACKOFF_SECONDS)
                pause = _MAX_BACKOFF_SECONDS
