"""Supervision: what it does about parts that die, hang, or cannot start. The parts are small real processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from localmesh.errors import LocalMeshError
from localmesh.processes import supervision
from localmesh.processes.process import Process, last_lines
from localmesh.processes.supervision import Happening, PartState, Supervised, Supervisor
from tests.support.running_mesh import environment
from tests.support.waiting import wait_until

READY = "import sys, time; print('ready', flush=True); sys.stdin.close(); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}"
FAILS = "import sys; sys.exit('no configuration')"


class ScriptPart:
    """A part that is ready when it says so."""

    def __init__(self, name: str, script: str, folder: Path) -> None:
        self.name = name
        self.address = "nowhere"
        self.log_file = folder / f"{name}.log"
        self.process = Process([sys.executable, "-c", script], environment=environment(), log_file=self.log_file)
        self.alive_before = 0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.alive

    @property
    def exit_code(self) -> int | None:
        """How it ended."""
        return self.process.exit_code

    def start(self) -> None:
        """Starts it."""
        self.alive_before = self._said()
        self.process.start()

    def ready(self) -> bool:
        """Whether it has said so since its last start."""
        return self._said() > self.alive_before

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def wait(self, timeout: float) -> bool:
        """Whether it has ended."""
        return self.process.wait(timeout)

    def _said(self) -> int:
        return self.log_file.read_text().count("ready") if self.log_file.exists() else 0


class Told:
    """What the supervisor told."""

    def __init__(self) -> None:
        self.happenings: list[tuple[Happening, str]] = []

    def __call__(self, happening: Happening, supervised: Supervised) -> None:
        self.happenings.append((happening, supervised.part.name))


@pytest.fixture
def told() -> Told:
    """Collects what is told."""
    return Told()


@pytest.fixture
def supervisor(told: Told) -> Iterator[Supervisor]:
    """A supervisor whose parts end with the test."""
    made = Supervisor(told)
    yield made
    made.kill()


def tick_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    """Lets the supervisor look until the condition is true."""

    def done() -> bool:
        supervisor.tick()
        return condition()

    wait_until(done, 30, "the supervisor has seen it")


def state(supervisor: Supervisor, name: str) -> PartState:
    """The state of a part."""
    return supervisor.parts[name].state


def test_a_part_is_up_when_it_is_ready(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    supervisor.start(ScriptPart("one", READY, tmp_path))
    assert not supervisor.all_up
    tick_until(supervisor, lambda: supervisor.all_up)
    assert told.happenings == [(Happening.STARTING, "one"), (Happening.UP, "one")]
    assert supervisor.parts["one"].took > 0


def test_a_part_that_dies_is_started_again(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    part = ScriptPart("one", READY, tmp_path)
    supervisor.start(part)
    tick_until(supervisor, lambda: supervisor.all_up)
    part.kill()
    part.wait(10)
    tick_until(supervisor, lambda: (Happening.DIED, "one") in told.happenings)
    tick_until(supervisor, lambda: supervisor.all_up)


def test_a_part_that_cannot_start_is_not_tried_again(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    part = ScriptPart("one", FAILS, tmp_path)
    supervisor.start(part)
    with pytest.raises(LocalMeshError, match=f"one died while it started; the whole log: {tmp_path}/one.log"):
        tick_until(supervisor, lambda: False)
    assert told.happenings[-1] == (Happening.BROKEN, "one")
    assert last_lines(part.log_file) == ["no configuration"]


def test_a_part_that_keeps_dying_is_given_up(
    supervisor: Supervisor, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_RESTARTS", 1)
    part = ScriptPart("one", READY, tmp_path)
    supervisor.start(part)
    for _ in range(2):
        tick_until(supervisor, lambda: supervisor.all_up)
        part.kill()
        part.wait(10)
    with pytest.raises(LocalMeshError, match="one died 2 times in 30 s"):
        tick_until(supervisor, lambda: False)


def test_a_part_that_is_held_down_stays_down_until_its_time_is_over(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(ScriptPart("one", READY, tmp_path))
    tick_until(supervisor, lambda: supervisor.all_up)
    supervisor.hold("one", seconds=3600, kill=True)
    supervisor.tick()
    assert state(supervisor, "one") is PartState.HELD
    supervisor.resume("one")
    tick_until(supervisor, lambda: supervisor.all_up)
    supervisor.hold("one", seconds=0, kill=False)
    tick_until(supervisor, lambda: supervisor.all_up)


def test_stopping_asks_first_and_then_insists(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_STOP_PATIENCE", 0.5)
    parts = [ScriptPart("polite", READY, tmp_path), ScriptPart("stubborn", STUBBORN, tmp_path)]
    for part in parts:
        supervisor.start(part)
    tick_until(supervisor, lambda: supervisor.all_up)
    supervisor.stop()
    assert [part.exit_code for part in parts] == [-15, -9]
    supervisor.tick()
    assert not any(part.alive for part in parts), "nobody starts them again"


def test_only_what_was_up_is_said_to_have_stopped(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    supervisor.start(ScriptPart("up", READY, tmp_path))
    tick_until(supervisor, lambda: supervisor.all_up)
    late = ScriptPart("late", READY, tmp_path)
    supervisor.start(late)
    supervisor.stop()
    assert not late.alive
    assert [name for happening, name in told.happenings if happening is Happening.STOPPED] == ["up"]


def test_a_process_dies_with_whoever_started_it(tmp_path: Path) -> None:
    """The child of a process that is killed with -9, in a session of its own, is gone too."""
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
    wait_until(lambda: "leash.py" not in " ".join(child.cmdline()), what="it has become the command")
    parent.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="the child is gone")


def test_a_log_is_read_from_its_end_and_json_is_made_readable(tmp_path: Path) -> None:
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


def test_a_log_that_has_grown_large_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localmesh.processes.process._LOG_LIMIT", 10)
    process = Process([sys.executable, "-c", "print('new')"], environment=environment(), log_file=tmp_path / "a.log")
    process.log_file.write_text("old and long enough")
    process.start()
    assert process.wait(20)
    assert process.log_file.read_text() == "new\n"
    assert (tmp_path / "a.old.log").read_text() == "old and long enough"
