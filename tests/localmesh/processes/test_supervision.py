"""Supervision of parts that die, hang, or cannot start. The parts are small real processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from localmesh.errors import LocalMeshError
from localmesh.processes import supervision
from localmesh.processes.process import Process, last_lines
from localmesh.processes.supervision import PartEvent, PartState, SupervisedPart, Supervisor
from tests.support.running_mesh import environment
from tests.support.waiting import wait_until

READY = "import sys, time; print('ready', flush=True); sys.stdin.close(); time.sleep(600)"
IGNORES_SIGTERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}"
FAILS = "import sys; sys.exit('no configuration')"


class ScriptPart:
    """A part that is ready when its script has printed `ready`."""

    def __init__(self, name: str, script: str, folder: Path) -> None:
        self.name = name
        self.address = "nowhere"
        self.log_file = folder / f"{name}.log"
        self.process = Process([sys.executable, "-c", script], environment=environment(), log_file=self.log_file)
        self.ready_before = 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.alive

    @property
    def exit_code(self) -> int | None:
        """The exit code."""
        return self.process.exit_code

    def start(self) -> None:
        """Starts the process."""
        self.ready_before = self._ready_count()
        self.process.start()

    def ready(self) -> bool:
        """Whether the script has printed `ready` since the last start."""
        return self._ready_count() > self.ready_before

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def wait(self, timeout: float) -> bool:
        """Waits for the process to end. Returns whether it has ended."""
        return self.process.wait(timeout)

    def _ready_count(self) -> int:
        return self.log_file.read_text().count("ready") if self.log_file.exists() else 0


class EventRecorder:
    """Records the events that the supervisor reports."""

    def __init__(self) -> None:
        self.events: list[tuple[PartEvent, str]] = []

    def __call__(self, event: PartEvent, supervised: SupervisedPart) -> None:
        self.events.append((event, supervised.part.name))


@pytest.fixture
def recorder() -> EventRecorder:
    """Records the events of the supervisor."""
    return EventRecorder()


@pytest.fixture
def supervisor(recorder: EventRecorder) -> Iterator[Supervisor]:
    """A supervisor whose parts are killed after the test."""
    made = Supervisor(recorder)
    yield made
    made.kill()


def tick_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    """Drives the supervisor until the condition is true."""

    def done() -> bool:
        supervisor.tick()
        return condition()

    wait_until(done, 30, "the supervisor's state")


def state(supervisor: Supervisor, name: str) -> PartState:
    """The state of a part."""
    return supervisor.parts[name].state


def test_a_part_is_up_when_it_is_ready(supervisor: Supervisor, recorder: EventRecorder, tmp_path: Path) -> None:
    supervisor.start(ScriptPart("one", READY, tmp_path))
    assert not supervisor.all_up
    tick_until(supervisor, lambda: supervisor.all_up)
    assert recorder.events == [(PartEvent.STARTING, "one"), (PartEvent.UP, "one")]
    assert supervisor.parts["one"].startup_seconds > 0


def test_a_part_that_dies_is_restarted(supervisor: Supervisor, recorder: EventRecorder, tmp_path: Path) -> None:
    part = ScriptPart("one", READY, tmp_path)
    supervisor.start(part)
    tick_until(supervisor, lambda: supervisor.all_up)
    part.kill()
    part.wait(10)
    tick_until(supervisor, lambda: (PartEvent.DIED, "one") in recorder.events)
    tick_until(supervisor, lambda: supervisor.all_up)


def test_a_part_that_dies_in_its_first_start_is_given_up(
    supervisor: Supervisor, recorder: EventRecorder, tmp_path: Path
) -> None:
    part = ScriptPart("one", FAILS, tmp_path)
    supervisor.start(part)
    with pytest.raises(LocalMeshError, match=f"one died while it started; the whole log: {tmp_path}/one.log"):
        tick_until(supervisor, lambda: False)
    assert recorder.events[-1] == (PartEvent.GIVEN_UP, "one")
    assert last_lines(part.log_file) == ["no configuration"]


def test_a_part_that_keeps_dying_is_given_up(
    supervisor: Supervisor, recorder: EventRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_MAX_RESTARTS", 1)
    part = ScriptPart("one", READY, tmp_path)
    supervisor.start(part)
    for _ in range(2):
        tick_until(supervisor, lambda: supervisor.all_up)
        part.kill()
        part.wait(10)
    with pytest.raises(LocalMeshError, match="one died 2 times in 30 s"):
        tick_until(supervisor, lambda: False)


def test_a_part_that_is_taken_down_stays_down_until_it_is_due(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(ScriptPart("one", READY, tmp_path))
    tick_until(supervisor, lambda: supervisor.all_up)
    supervisor.take_down("one", seconds=3600, kill=True)
    supervisor.tick()
    assert state(supervisor, "one") is PartState.TAKEN_DOWN
    supervisor.bring_back("one")
    tick_until(supervisor, lambda: supervisor.all_up)
    supervisor.take_down("one", seconds=0, kill=False)
    tick_until(supervisor, lambda: supervisor.all_up)


def test_stopping_sends_sigterm_and_then_sigkill(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_STOP_TIMEOUT_SECONDS", 0.5)
    parts = [ScriptPart("ends", READY, tmp_path), ScriptPart("ignores", IGNORES_SIGTERM, tmp_path)]
    for part in parts:
        supervisor.start(part)
    tick_until(supervisor, lambda: supervisor.all_up)
    supervisor.stop()
    assert [part.exit_code for part in parts] == [-15, -9]
    supervisor.tick()
    assert not any(part.alive for part in parts), "they are not restarted"


def test_only_parts_that_were_up_are_reported_as_stopped(
    supervisor: Supervisor, recorder: EventRecorder, tmp_path: Path
) -> None:
    supervisor.start(ScriptPart("up", READY, tmp_path))
    tick_until(supervisor, lambda: supervisor.all_up)
    late = ScriptPart("late", READY, tmp_path)
    supervisor.start(late)
    supervisor.stop()
    assert not late.alive
    assert [name for event, name in recorder.events if event is PartEvent.STOPPED] == ["up"]


def test_a_process_dies_with_its_parent(tmp_path: Path) -> None:
    """Without PR_SET_PDEATHSIG, the child of a process that is killed with SIGKILL would go on running."""
    script = (
        "import os, sys, time, pathlib\n"
        "from localmesh.processes.process import Process\n"
        f"child = Process([sys.executable, '-c', 'import time; time.sleep(600)'], environment=dict(os.environ),"
        f" log_file=pathlib.Path({str(tmp_path / 'child.log')!r}))\n"
        "child.start()\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = Process([sys.executable, "-c", script], environment=environment(), log_file=tmp_path / "parent.log")
    parent.start()
    wait_until(lambda: parent.log_file.exists() and "child" in parent.log_file.read_text(), what="the child runs")
    child = psutil.Process(int(parent.log_file.read_text().split()[1]))
    wait_until(lambda: "parent_death.py" not in " ".join(child.cmdline()), what="the child has executed its command")
    parent.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="the child is gone")


def test_the_end_of_a_log_is_shown_with_readable_json(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    assert "No such file" in last_lines(log)[0]
    log.write_text(
        "x" * 20_000
        + '\nTraceback (most recent call last):\n\n{"level": "ERROR", "logger": "credmesh.etcd", "message": "gone"}\n'
        + '{"level": "warn", "msg": "etcd says"}\n{"no": "level"}\n'
    )
    assert last_lines(log, 4) == [
        "Traceback (most recent call last):",
        "ERROR credmesh.etcd: gone",
        "warn : etcd says",
        '{"no": "level"}',
    ]


def test_a_large_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localmesh.processes.process._MAX_LOG_BYTES", 10)
    process = Process([sys.executable, "-c", "print('new')"], environment=environment(), log_file=tmp_path / "a.log")
    process.log_file.write_text("old and long enough")
    process.start()
    assert process.wait(20)
    assert process.log_file.read_text() == "new\n"
    assert (tmp_path / "a.old.log").read_text() == "old and long enough"
