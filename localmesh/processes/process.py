"""One process of the local mesh: it dies with this process, logs to a file, and can be stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["Process", "last_lines", "tied_to_parent"]

_PARENT_DEATH: Final = Path(__file__).with_name("parent_death.py")
_MAX_LOG_BYTES: Final = 10 * 1024 * 1024
_TAIL_BYTES: Final = 16 * 1024


class Process:
    """A command with its own process group and log file.

    Start it from a thread that lives as long as the mesh: the kernel kills it when the thread that started it ends.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log_file: Path) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)
        self.log_file = log_file
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id; None unless the process runs."""
        return self._popen.pid if self._popen is not None and self.alive else None

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal. None while the process runs, and before it was started."""
        return None if self._popen is None else self._popen.poll()

    def start(self) -> None:
        """Starts the process. OSError if it cannot start."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > _MAX_LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".old.log"))
        with self.log_file.open("ab") as log:
            self._popen = subprocess.Popen(  # noqa: S603 - our own commands
                tied_to_parent(self._command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def terminate(self) -> None:
        """Asks the process to end (SIGTERM)."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the process (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the process to end. Returns whether it has ended."""
        if self._popen is None:
            return True
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(number)


def tied_to_parent(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` so that it dies with this process; see parent_death.py."""
    return [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *command]


def last_lines(log_file: Path, count: int = 8) -> list[str]:
    """The last lines of a log, for a terminal: a JSON line becomes level, logger and message."""
    try:
        with log_file.open("rb") as log:
            log.seek(max(0, log_file.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError as error:
        return [f"({log_file}: {error.strerror})"]
    return [_readable(line) for line in lines if line.strip()][-count:]


def _readable(line: str) -> str:
    try:
        record = json.loads(line)
        return f"{record['level']} {record.get('logger', '')}: {record.get('message') or record.get('msg', '')}"
    except (ValueError, KeyError, TypeError):
        return line.rstrip()
