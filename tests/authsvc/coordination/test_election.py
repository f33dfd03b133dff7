"""One replica leads; one that is not sure any more stops; one that does not know it yet can write nothing."""

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
    # A job that never looks whether it still leads: only the fence is in its way.
    while True:
        print("wrote" if etcd.commit([fence], [Put(prefix + "work", b"old")]) else "refused", flush=True)
        if sys.stdin.readline() == "":
            return 1e6

LeaderElection(settings, Layout(prefix), "old", 2, [work]).start()
threading.Event().wait()
"""


@pytest.fixture
def start(etcd_settings: EtcdSettings) -> Iterator[Start]:
    """Starts a leader, which is stopped when the test ends."""
    with ExitStack() as stack:

        def start(
            name: str = "one", *jobs: Callable[[CreatedAt], float], settings: EtcdSettings = etcd_settings, ttl: int = 5
        ) -> LeaderElection:
            leader = LeaderElection(settings, Layout(settings.prefix), name, ttl, jobs)
            stack.callback(leader.stop)
            leader.start()
            return leader

        yield start


def test_one_of_several_leads_and_another_takes_over_as_soon_as_it_stops(start: Start) -> None:
    leaders = [start(name, ttl=60) for name in ("one", "two", "three")]
    [first] = wait_until(lambda: [one for one in leaders if one.leading])
    first.stop()
    assert not first.leading
    # Long before the lease of a minute would have run out.
    [second] = wait_until(lambda: [one for one in leaders if one.leading], timeout=5)
    assert second is not first


def test_a_leader_whose_key_is_deleted_leads_on_only_under_a_new_fence(start: Start, etcd_client: EtcdClient) -> None:
    fences: list[CreatedAt] = []

    def job(fence: CreatedAt) -> float:
        fences.append(fence)
        return 1e6

    start("one", job)
    wait_until(lambda: fences)
    etcd_client.commit([], [Delete(fences[0].key)])
    wait_until(lambda: len(fences) > 1)
    assert fences[1].create_revision > fences[0].create_revision


def test_jobs_go_on_when_the_lease_is_renewed_so_late_that_it_was_not_certain_any_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the process stood still, or the answer was long under way: etcd has renewed it in time."""
    runs: list[CreatedAt] = []

    def job(fence: CreatedAt) -> float:
        runs.append(fence)
        return 0.05

    leader = start("one", job, ttl=3)
    wait_until(lambda: runs)
    renew, asked = leader._etcd.keep_alive, leader._runners[0]._fence
    told: list[CreatedAt | None] = []
    late_at: list[int] = []

    def ask() -> CreatedAt | None:
        told.append(asked())
        return told[-1]

    def late(lease_id: int) -> int:
        remaining = renew(lease_id)
        if not late_at:
            wait_until(lambda: told[-1] is None, what="the job to be told that nobody leads")
            late_at.append(len(runs))
        return remaining

    monkeypatch.setattr(leader._runners[0], "_fence", ask)
    wait_until(lambda: told)
    monkeypatch.setattr(leader._etcd, "keep_alive", late)
    wait_until(lambda: late_at, 20)
    wait_until(lambda: len(runs) > late_at[0], what="the job to go on")
    assert {fence.create_revision for fence in runs} == {runs[0].create_revision}


def test_a_leader_whose_key_is_anothers_does_not_lead(
    start: Start, etcd_client: EtcdClient, etcd_settings: EtcdSettings, caplog: pytest.LogCaptureFixture
) -> None:
    leader = start("one")
    wait_until(lambda: leader.leading)
    key = Layout(etcd_settings.prefix).leader
    etcd_client.commit([], [Put(key, b"")])
    wait_until(lambda: not leader.leading)
    assert "its key is gone or another's" in caplog.text
    etcd_client.commit([], [Delete(key)])
    wait_until(lambda: leader.leading)


def test_a_leader_that_was_paused_beyond_its_lease_can_write_nothing_when_it_wakes_up(
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


def test_etcd_restarts_and_somebody_leads_again(start: Start, own_etcd: EtcdProcess) -> None:
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


def test_a_replica_campaigns_before_etcd_is_there(start: Start, own_etcd: EtcdProcess) -> None:
    settings = own_etcd.settings("/m/", timeout=1.0)
    own_etcd.stop()
    leader = start("one", settings=settings)
    assert not leader.leading
    own_etcd.start()
    wait_until(lambda: leader.leading)


def test_a_job_is_called_at_once_when_something_changes_below_its_prefixes(
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
    # One call begins the term; its prefix is read once, which may wake it too.
    wait_until(lambda: others and all(mirror.connected for mirror in leader._mirrors))
    before, others_before = len(calls), len(others)
    etcd_client.commit([], [Put(etcd_settings.prefix + "bell/1", b"")])
    wait_until(lambda: len(calls) > before, timeout=2)
    assert len(others) == others_before
    leader.wake()
    wait_until(lambda: len(others) > others_before, timeout=2)


def test_a_job_that_fails_or_hangs_does_not_keep_the_others_from_running(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
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


def test_a_fence_holds_for_one_term_only_even_if_anothers_key_is_created_at_its_very_revision(
    start: Start, etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    """As it may happen in an etcd that was restored from a backup, where revisions begin again."""
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
