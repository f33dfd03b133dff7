"""Supervision of a local mesh's parts: starts, watches, restarts and stops them."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from localmesh.errors import LocalMeshError

__all__ = ["Part", "PartEvent", "PartState", "SupervisedPart", "Supervisor"]

_STOP_TIMEOUT_SECONDS: Final = 8.0
_MAX_RESTARTS: Final = 3
_RESTART_WINDOW_SECONDS: Final = 30.0
_FIRST_RESTART_DELAY_SECONDS: Final = 0.5


class Part(Protocol):
    """A process of the local mesh: etcd, an auth replica or a service."""

    name: str
    log_file: Path

    @property
    def address(self) -> str: ...

    @property
    def alive(self) -> bool: ...

    @property
    def exit_code(self) -> int | None: ...

    def start(self) -> None:
        """Starts the part without waiting until it is ready. LocalMeshError if it cannot start."""

    def ready(self) -> bool:
        """Whether the part answers. Returns within seconds."""

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float) -> bool: ...


class PartState(enum.Enum):
    """The state of a part, as `make status` shows it."""

    WAITING = "waiting"
    STARTING = "starting"
    UP = "up"
    TAKEN_DOWN = "taken down"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class PartEvent(enum.Enum):
    """A change of a part that the supervisor reports. GIVEN_UP: it died and is not restarted."""

    STARTING = "starting"
    UP = "up"
    DIED = "died"
    TAKEN_DOWN = "taken down"
    GIVEN_UP = "given up"
    STOPPED = "stopped"


@dataclass(slots=True)
class SupervisedPart:
    """A part and its state. All times are in monotonic seconds.

    started_at       the last start
    startup_seconds  from a start until the part was ready; 0.0 if it was never ready
    deaths           the recent ends that were not asked for
    restart_at       when to start the part again; None if no restart is due
    """

    part: Part
    state: PartState = PartState.WAITING
    started_at: float = 0.0
    startup_seconds: float = 0.0
    deaths: list[float] = field(default_factory=list)
    restart_at: float | None = None


class Supervisor:
    """Keeps parts up. One thread drives it by calling `tick`.

    A part that dies is restarted after a growing delay. It is given up if it dies during its first start, or more than
    three times within 30 seconds: another restart would not help. `tick` then raises LocalMeshError.
    """

    def __init__(self, on_event: Callable[[PartEvent, SupervisedPart], None]) -> None:
        self._on_event = on_event
        self.parts: dict[str, SupervisedPart] = {}

    def start(self, part: Part) -> None:
        """Starts a part for the first time and supervises it from then on."""
        supervised = self.parts[part.name] = SupervisedPart(part)
        self._start(supervised)

    def tick(self) -> None:
        """Checks every part once, and restarts what is due. LocalMeshError names a part that is given up."""
        now = time.monotonic()
        for supervised in self.parts.values():
            if supervised.state in (PartState.STARTING, PartState.UP) and not supervised.part.alive:
                self._handle_death(supervised, now)
            elif supervised.state is PartState.STARTING and supervised.part.ready():
                supervised.state = PartState.UP
                supervised.startup_seconds = time.monotonic() - supervised.started_at
                self._on_event(PartEvent.UP, supervised)
            elif supervised.restart_at is not None and now >= supervised.restart_at:
                self._start(supervised)

    @property
    def all_up(self) -> bool:
        """Whether every part is up."""
        return all(supervised.state is PartState.UP for supervised in self.parts.values())

    def take_down(self, name: str, *, seconds: float, kill: bool) -> None:
        """Stops or kills a part on request. It is restarted after `seconds`, or earlier by `bring_back`."""
        supervised = self._find(name)
        supervised.state = PartState.TAKEN_DOWN
        if kill:
            supervised.part.kill()
        else:
            supervised.part.terminate()
        if not supervised.part.wait(_STOP_TIMEOUT_SECONDS):
            supervised.part.kill()
            supervised.part.wait(_STOP_TIMEOUT_SECONDS)
        # The process that asked for this may die before it calls `bring_back`.
        supervised.restart_at = time.monotonic() + seconds
        self._on_event(PartEvent.TAKEN_DOWN, supervised)

    def bring_back(self, name: str) -> None:
        """Starts a part that was taken down. Does nothing in any other state."""
        supervised = self._find(name)
        if supervised.state is PartState.TAKEN_DOWN:
            self._start(supervised)

    def stop(self, names: Iterable[str] | None = None) -> None:
        """Stops the named parts, or all, at the same time: SIGTERM first, SIGKILL after a timeout."""
        chosen = [self.parts[name] for name in (names if names is not None else list(self.parts))]
        running = [supervised for supervised in chosen if supervised.part.alive]
        for supervised in chosen:
            supervised.state = PartState.STOPPED
            supervised.restart_at = None
        for supervised in running:
            supervised.part.terminate()
        deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
        for supervised in running:
            if not supervised.part.wait(max(0.0, deadline - time.monotonic())):
                supervised.part.kill()
                supervised.part.wait(_STOP_TIMEOUT_SECONDS)
            if supervised.startup_seconds:
                # A part that was never up is not reported as stopped.
                self._on_event(PartEvent.STOPPED, supervised)

    def kill(self) -> None:
        """Kills every part (SIGKILL)."""
        for supervised in self.parts.values():
            supervised.state = PartState.STOPPED
            supervised.part.kill()
        for supervised in self.parts.values():
            supervised.part.wait(_STOP_TIMEOUT_SECONDS)

    def _start(self, supervised: SupervisedPart) -> None:
        supervised.state = PartState.STARTING
        supervised.started_at = time.monotonic()
        supervised.restart_at = None
        self._on_event(PartEvent.STARTING, supervised)
        supervised.part.start()

    def _handle_death(self, supervised: SupervisedPart, now: float) -> None:
        during_first_start = supervised.startup_seconds == 0.0
        recent = [death for death in supervised.deaths if now - death < _RESTART_WINDOW_SECONDS]
        supervised.deaths = [*recent, now]
        if during_first_start or len(supervised.deaths) > _MAX_RESTARTS:
            supervised.state = PartState.STOPPED
            self._on_event(PartEvent.GIVEN_UP, supervised)
            how_often = (
                "while it started"
                if during_first_start
                else f"{len(supervised.deaths)} times in {_RESTART_WINDOW_SECONDS:g} s"
            )
            raise LocalMeshError(f"{supervised.part.name} died {how_often}; the whole log: {supervised.part.log_file}")
        supervised.state = PartState.RESTARTING
        supervised.restart_at = now + _FIRST_RESTART_DELAY_SECONDS * 2 ** (len(supervised.deaths) - 1)
        self._on_event(PartEvent.DIED, supervised)

    def _find(self, name: str) -> SupervisedPart:
        try:
            return self.parts[name]
        except KeyError:
            raise LocalMeshError(f"there is no part {name!r}; the parts are {', '.join(self.parts)}") from None
