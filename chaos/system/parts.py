"""The parts of the test bed: processes that can be killed, frozen, and started again at the same address."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from chaos.clock import WallClock
from localmesh.processes.process import Process

__all__ = ["Part"]

_STOP_TIMEOUT_SECONDS: Final = 5.0


class Part:
    """One process.

    name        its name in plans and in the operation log
    wall_clock  sets its wall clock; None if that cannot be set
    alive       whether it runs, frozen or not
    expected    whether it should run: False between `kill` and `start`

    It must be started from a thread that lives as long as the world (see localmesh.processes.process).
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        *,
        environment: Mapping[str, str],
        log_file: Path,
        wall_clock: WallClock | None = None,
    ) -> None:
        self.name = name
        self.wall_clock = wall_clock
        self.log_file = log_file
        self.expected = False
        self.frozen = False
        self._command = command
        self._environment = environment
        self._process: Process | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.alive

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs, and before it was started."""
        return None if self._process is None else self._process.exit_code

    def start(self) -> None:
        """Starts it, and does not wait until it is ready. Does nothing if it runs."""
        if self.alive:
            return
        self._process = Process(self._command(), environment=self._environment, log_file=self.log_file)
        self._process.start()
        self.expected = True
        self.frozen = False

    def kill(self) -> None:
        """Ends it with SIGKILL, frozen or not."""
        self.expected = False
        self.frozen = False
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_TIMEOUT_SECONDS)

    def freeze(self) -> None:
        """Stops it with SIGSTOP."""
        self._signal(signal.SIGSTOP)
        self.frozen = self.alive

    def thaw(self) -> None:
        """Lets it go on with SIGCONT."""
        self._signal(signal.SIGCONT)
        self.frozen = False

    def _signal(self, number: signal.Signals) -> None:
        pid = None if self._process is None else self._process.pid
        if pid is not None:
            os.kill(pid, number)
