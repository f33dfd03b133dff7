"""One replica leads. A leader that cannot be sure of its lease stops its jobs; a deposed one can write nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from authsvc.coordination.election import LeaderElection, LeaderJob
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, EtcdUnavailable, Put
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.waiting import wait_until

Start = Callable[..., LeaderElection]

PAUSED_LEADER = """
import sys, threading
from authsvc.coordination.election import LeaderElection
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings

endpoint, prefix = sys.argv[1:]
settings = EtcdSettings(endpoints=(endpoint,), prefix=prefix)
etcd = EtcdClient(settings)

def work(fence):
    # A job that never checks whether its replica still leads. Only the fence stops it.
    while True:
        print("wrote" if etcd.commit([fence], [Put(prefix + "work", b"old")]) else "refused", flush=True)
        if sys.stdin.readline() == "":
            return 1e6

LeaderElection(settings, Layout(prefix), "old", 2, [work]).start()
threading.Event().wait()
"""


@pytest.fixture
def start(etcd_settings: EtcdSettings) -> Iterator[Start]:
    """Starts a replica's election, which is stopped when the test ends."""
    with ExitStack() as stack:

        def start(
            name: str = "one", *jobs: Callable[[CreatedAt], float], settings: EtcdSettings = etcd_settings, ttl: int = 5
        ) -> LeaderElection:
            leader = LeaderElection(settings, Layout(settings.prefix), name, ttl, jobs)
            stack.callback(leader.stop)
            leader.start()
            return leader

        yield start


def test_one_replica_leads_and_another_takes_over_as_soon_as_it_stops(start: Start) -> None:
    leaders = [start(name, ttl=60) for name in ("one", "two", "three")]
    [first] = wait_until(lambda: [one for one in leaders if one.leading])
    first.stop()
    assert not first.leading
    # Long before the lease of a minute would have run out.
    [second] = wait_until(lambda: [one for one in leaders if one.leading], timeout=5)
    assert second is not first


def test_a_leader_whose_key_is_deleted_leads_only_under_a_new_fence(start: Start, etcd_client: EtcdClient) -> None:
    fences: list[CreatedAt] = []

    def job(fence: CreatedAt) -> float:
        fences.append(fence)
        return 1e6

    start("one", job)
    wait_until(lambda: fences)
    etcd_client.commit([], [Delete(fences[0].key)])
    wait_until(lambda: len(fences) > 1)
    assert fences[1].create_revision > fences[0].create_revision


def test_jobs_go_on_after_a_late_renewal_of_a_lease_that_lived_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example after a pause of the process, or a slow answer: etcd renewed the lease in time."""
    runs: list[CreatedAt] = []

    def job(fence: CreatedAt) -> float:
        runs.append(fence)
        return 0.05

    leader = start("one", job, ttl=3)
    wait_until(lambda: runs)
    keep_alive, current_fence = leader._etcd.keep_alive, leader._runners[0]._current_fence
    fences: list[CreatedAt | None] = []
    runs_before_renewal: list[int] = []

    def recorded_fence() -> CreatedAt | None:
        fences.append(current_fence())
        return fences[-1]

    def late_keep_alive(lease_id: int) -> int:
        remaining = keep_alive(lease_id)
        if not runs_before_renewal:
            wait_until(lambda: fences[-1] is None, what="the job to get no fence")
            runs_before_renewal.append(len(runs))
        return remaining

    monkeypatch.setattr(leader._runners[0], "_current_fence", recorded_fence)
    wait_until(lambda: fences)
    monkeypatch.setattr(leader._etcd, "keep_alive", late_keep_alive)
    wait_until(lambda: runs_before_renewal, 20)
    wait_until(lambda: len(runs) > runs_before_renewal[0], what="the job to go on")
    assert {fence.create_revision for fence in runs} == {runs[0].create_revision}


def test_a_leader_whose_key_is_under_another_lease_does_not_lead(
    start: Start, etcd_client: EtcdClient, etcd_settings: EtcdSettings, caplog: pytest.LogCaptureFixture
) -> None:
    leader = start("one")
    wait_until(lambda: leader.leading)
    key = Layout(etcd_settings.prefix).leader
    etcd_client.commit([], [Put(key, b"")])
    wait_until(lambda: not leader.leading)
    assert "the leader's key is gone or under another lease" in caplog.text
    etcd_client.commit([], [Delete(key)])
    wait_until(lambda: leader.leading)


def test_a_leader_paused_beyond_its_lease_can_write_nothing_afterwards(
    start: Start, etcd: EtcdProcess, etcd_settings: EtcdSettings, etcd_client: EtcdClient
) -> None:
    paused = subprocess.Popen(
        [sys.executable, "-c", PAUSED_LEADER, etcd.endpoint, etcd_settings.prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert paused.stdin is not None
        assert paused.stdout is not None
        assert paused.stdout.readline() == "wrote\n"
        paused.send_signal(signal.SIGSTOP)
        work = etcd_settings.prefix + "work"

        def job(fence: CreatedAt) -> float:
            assert etcd_client.commit([fence], [Put(work, b"new")])
            return 1e6

        successor = start("new", job)
        wait_until(lambda: etcd_client.read(work).values[work].value == b"new", what="the successor's write")
        paused.send_signal(signal.SIGCONT)
        paused.stdin.write("go on\n")
        paused.stdin.flush()
        assert paused.stdout.readline() == "refused\n"
        assert etcd_client.read(work).values[work].value == b"new"
        assert successor.leading
    finally:
        paused.kill()
        paused.communicate()


def test_a_replica_leads_again_after_a_restart_of_etcd(start: Start, own_etcd: EtcdProcess) -> None:
    settings = own_etcd.settings("/m/", timeout=1.0)
    runs: list[CreatedAt] = []

    def job(fence: CreatedAt) -> float:
        with EtcdClient(settings) as client:
            client.read("/m/x")
        runs.append(fence)
        return 0.05

    leader = start("one", job, settings=settings, ttl=2)
    wait_until(lambda: leader.leading)
    own_etcd.kill()
    wait_until(lambda: not leader.leading, what="the leader to notice that it cannot be sure")
    own_etcd.start()
    wait_until(lambda: leader.leading, what="the leader to lead again")
    before = len(runs)
    wait_until(lambda: len(runs) > before, what="the job to run again")
    assert runs[-1].create_revision >= runs[0].create_revision


def test_a_replica_campaigns_before_etcd_is_up(start: Start, own_etcd: EtcdProcess) -> None:
    settings = own_etcd.settings("/m/", timeout=1.0)
    own_etcd.stop()
    leader = start("one", settings=settings)
    assert not leader.leading
    own_etcd.start()
    wait_until(lambda: leader.leading)


def test_a_change_below_its_prefixes_has_a_job_called_at_once(
    start: Start, etcd_settings: EtcdSettings, etcd_client: EtcdClient
) -> None:
    calls: list[int] = []
    others: list[int] = []

    def job(_fence: CreatedAt) -> float:
        calls.append(1)
        return 1e6

    def other(_fence: CreatedAt) -> float:
        others.append(1)
        return 1e6

    leader = start("one", LeaderJob(job, wakes_on=(etcd_settings.prefix + "bell/",)), other)
    # The begin of the term wakes the job, and so may the first read of its prefix.
    wait_until(lambda: others and all(mirror.connected for mirror in leader._mirrors))
    before, others_before = len(calls), len(others)
    etcd_client.commit([], [Put(etcd_settings.prefix + "bell/1", b"")])
    wait_until(lambda: len(calls) > before, timeout=2)
    assert len(others) == others_before
    leader.wake()
    wait_until(lambda: len(others) > others_before, timeout=2)


def test_a_job_that_fails_or_hangs_does_not_stop_the_others(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()
    calls: list[int] = []
    attempts: list[int] = []

    def hangs(_fence: CreatedAt) -> float:
        go_on.wait(30)
        return 1e6

    def fails(_fence: CreatedAt) -> float:
        raise ZeroDivisionError("planted")

    def finds_etcd_away(_fence: CreatedAt) -> float:
        attempts.append(1)
        if len(attempts) == 1:
            raise EtcdUnavailable("planted")
        return 1e6

    def works(_fence: CreatedAt) -> float:
        calls.append(1)
        return 0.01

    try:
        leader = start("one", hangs, fails, LeaderJob(finds_etcd_away, name="unlucky"), works)
        wait_until(lambda: len(calls) > 3)
        wait_until(lambda: len(attempts) == 2 and "ZeroDivisionError" in caplog.text)
        assert leader.leading
    finally:
        go_on.set()
    assert "job failed unexpectedly" in caplog.text
    assert "unlucky waits for etcd: planted" in caplog.text


def test_a_fence_holds_for_one_term_even_if_the_revision_is_used_again(
    start: Start, etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    """An etcd that was restored from a backup uses revisions a second time."""
    fences: list[CreatedAt] = []

    def job(fence: CreatedAt) -> float:
        fences.append(fence)
        return 1e6

    leader = start("one", job)
    wait_until(lambda: fences)
    work = etcd_settings.prefix + "work"
    assert etcd_client.commit([fences[0]], [Put(work, b"")])
    leader.stop()
    revision = etcd_client.commit([], [Put(fences[0].key, b"another term")])
    assert revision is not None
    assert etcd_client.commit([replace(fences[0], create_revision=revision)], [Put(work, b"")]) is None
    assert etcd_client.commit([CreatedAt(fences[0].key, revision, b"another term")], [Put(work, b"")])
    again = start("one", job)
    etcd_client.commit([], [Delete(fences[0].key)])
    wait_until(lambda: again.leading)
    wait_until(lambda: len(fences) > 1)
    assert fences[1].value != fences[0].value
