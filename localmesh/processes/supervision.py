"""Keeping the parts of a local mesh up: starting, watching, restarting, stopping them."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from localmesh.errors import LocalMeshError

__all__ = ["Happening", "Part", "PartState", "Supervised", "Supervisor"]

_STOP_PATIENCE: Final = 8.0
_RESTARTS: Final = 3
_WITHIN: Final = 30.0


class Part(Protocol):
    """Something that runs: a process of ours, or etcd."""

    name: str
    log_file: Path

    @property
    def address(self) -> str: ...

    @property
    def alive(self) -> bool: ...

    @property
    def exit_code(self) -> int | None: ...

    def start(self) -> None:
        """Starts it; it need not be ready yet. LocalMeshError if that cannot be."""

    def ready(self) -> bool:
        """Whether it answers. Returns soon."""

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float) -> bool: ...


class PartState(enum.Enum):
    """Where a part is."""

    WAITING = "waiting"
    STARTING = "starting"
    UP = "up"
    HELD = "held down"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class Happening(enum.Enum):
    """What the supervisor tells whoever watches."""

    STARTING = "starting"
    UP = "up"
    DIED = "died"
    HELD = "held"
    BROKEN = "broken"
    STOPPED = "stopped"


@dataclass(slots=True)
class Supervised:
    """A part and what is known of it.

    since     monotonic seconds of its last start
    took      seconds from its start until it was ready; 0.0 if it never was
    deaths    monotonic seconds of its last unwanted ends
    again_at  monotonic seconds: when to start it again; None if nobody is to
    """

    part: Part
    state: PartState = PartState.WAITING
    since: float = 0.0
    took: float = 0.0
    deaths: list[float] = field(default_factory=list)
    again_at: float | None = None


class Supervisor:
    """Watches parts. One thread drives it; see `tick`.

    A part that dies is started again, after a pause that grows. One that dies while it starts for the first time, or
    more than three times within half a minute, will not be helped by another try: `tick` then raises LocalMeshError.
    """

    def __init__(self, tell: Callable[[Happening, Supervised], None]) -> None:
        self._tell = tell
        self.parts: dict[str, Supervised] = {}

    def start(self, part: Part) -> None:
        """Starts a part for the first time and watches it from then on."""
        supervised = self.parts[part.name] = Supervised(part)
        self._start(supervised)

    def tick(self) -> None:
        """Looks at every part once. LocalMeshError names a part that cannot be kept up."""
        now = time.monotonic()
        for supervised in self.parts.values():
            if supervised.state in (PartState.STARTING, PartState.UP) and not supervised.part.alive:
                self._died(supervised, now)
            elif supervised.state is PartState.STARTING and supervised.part.ready():
                supervised.state = PartState.UP
                supervised.took = time.monotonic() - supervised.since
                self._tell(Happening.UP, supervised)
            elif supervised.again_at is not None and now >= supervised.again_at:
                self._start(supervised)

    @property
    def all_up(self) -> bool:
        """Whether every part answers."""
        return all(supervised.state is PartState.UP for supervised in self.parts.values())

    def hold(self, name: str, *, seconds: float, kill: bool) -> None:
        """Takes a part down on purpose, and starts it again after that long unless `resume` does so before."""
        supervised = self._find(name)
        supervised.state = PartState.HELD
        if kill:
            supervised.part.kill()
        else:
            supervised.part.terminate()
        if not supervised.part.wait(_STOP_PATIENCE):
            supervised.part.kill()
            supervised.part.wait(_STOP_PATIENCE)
        # Whoever asked may never come back to say resume.
        supervised.again_at = time.monotonic() + seconds
        self._tell(Happening.HELD, supervised)

    def resume(self, name: str) -> None:
        """Starts a part that is held down."""
        supervised = self._find(name)
        if supervised.state is PartState.HELD:
            self._start(supervised)

    def stop(self, names: Iterable[str] | None = None) -> None:
        """Stops these parts, or all, together: asks first, then insists."""
        chosen = [self.parts[name] for name in (names if names is not None else list(self.parts))]
        running = [supervised for supervised in chosen if supervised.part.alive]
        for supervised in chosen:
            supervised.state = PartState.STOPPED
            supervised.again_at = None
        for supervised in running:
            supervised.part.terminate()
        deadline = time.monotonic() + _STOP_PATIENCE
        for supervised in running:
            if not supervised.part.wait(max(0.0, deadline - time.monotonic())):
                supervised.part.kill()
                supervised.part.wait(_STOP_PATIENCE)
            if supervised.took:
                # One that never came up was not there for anybody.
                self._tell(Happening.STOPPED, supervised)

    def kill(self) -> None:
        """Ends everything at once."""
        for supervised in self.parts.values():
            supervised.state = PartState.STOPPED
            supervised.part.kill()
        for supervised in self.parts.values():
            supervised.part.wait(_STOP_PATIENCE)

    def _start(self, supervised: Supervised) -> None:
        supervised.state = PartState.STARTING
        supervised.since = time.monotonic()
        supervised.again_at = None
        self._tell(Happening.STARTING, supervised)
        supervised.part.start()

    def _died(self, supervised: Supervised, now: float) -> None:
        first_start = supervised.took == 0.0
        supervised.deaths = [*(death for death in supervised.deaths if now - death < _WITHIN), now]
        if first_start or len(supervised.deaths) > _RESTARTS:
            supervised.state = PartState.STOPPED
            self._tell(Happening.BROKEN, supervised)
            how_often = "while it started" if first_start else f"{len(supervised.deaths)} times in {_WITHIN:g} s"
            raise LocalMeshError(f"{supervised.part.name} died {how_often}; the whole log: {supervised.part.log_file}")
        supervised.state = PartState.RESTARTING
        supervised.again_at = now + 0.5 * 2 ** (len(supervised.deaths) - 1)
        self._tell(Happening.DIED, supervised)

    def _find(self, name: str) -> Supervised:
        try:
            return self.parts[name]
        except KeyError:
            raise LocalMeshError(f"there is no part {name!r}; there are {', '.join(self.parts)}") from None
