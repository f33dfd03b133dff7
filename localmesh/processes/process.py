"""One process of the local mesh: started on a leash, logging to a file, stopped for certain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["Process", "last_lines", "leashed"]

_LEASH: Final = Path(__file__).with_name("leash.py")
_LOG_LIMIT: Final = 10 * 1024 * 1024
_TAIL_BYTES: Final = 16 * 1024


class Process:
    """A command with its own process group and log file.

    It must be started from a thread that lives as long as the mesh: the kernel ends it with the thread that made it.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log_file: Path) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)
        self.log_file = log_file
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._popen.pid if self._popen is not None and self.alive else None

    @property
    def exit_code(self) -> int | None:
        """How it ended; negative for a signal. None while it runs, and before it was started."""
        return None if self._popen is None else self._popen.poll()

    def start(self) -> None:
        """Starts it. OSError if that cannot be."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_LIMIT:
            self.log_file.replace(self.log_file.with_suffix(".old.log"))
        with self.log_file.open("ab") as log:
            self._popen = subprocess.Popen(  # noqa: S603 - our own commands
                leashed(self._command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def terminate(self) -> None:
        """Asks it to end (SIGTERM)."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def wait(self, timeout: float) -> bool:
        """Waits at most `timeout` seconds for its end; whether it has ended."""
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


def leashed(command: Sequence[str]) -> list[str]:
    """The command that runs this one so that it dies with this process; see leash.py."""
    return [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *command]


def last_lines(log_file: Path, count: int = 8) -> list[str]:
    """The last lines of a log, as a person reads them: JSON lines become level, logger and message."""
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
