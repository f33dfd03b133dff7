"""One run: a world, its clients, and a plan carried out; what is left is the history.

The world's own records in the history: "meta" (how clocks are set, what the parts are called), "clock" (a process's
wall clock was set: who, ahead, before), "calm" (everything was to work: t to u; until `quiet` no fault begins; whether
there was a `disagreement` among etcd's members), "exit" (a process ended by itself: who, code), "restore" (an operator
restored a backup: t to u, life). Which faults there were is not among them.
"""

from __future__ import annotations

import heapq
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc

from chaos.faults import KINDS, Names, filling
from chaos.observer import Observer
from chaos.plan import Calm, Plan, Planned
from chaos.system.cluster import MEMBERS
from chaos.system.world import PREFIX, Shape, World
from localmesh.errors import LocalMeshError
from localmesh.processes.process import leashed

__all__ = ["Progress", "names_of", "play"]

_TICK: Final = 0.1
_TRY_AGAIN: Final = 0.5
_HEALING: Final = 3.0
"""Seconds that healing may take of a calm. What has to recover then has SETTLE less that."""
_GIVE_UP: Final = 60.0
_STOP_TIMEOUT: Final = 20.0
_LAST_LOOK: Final = 0.5


@dataclass(slots=True)
class Progress:
    """How far a run is, for whoever shows it. Written by one thread, read by another.

    state   what goes on, in a few words
    active  the faults that last at the moment, as they describe themselves
    faults  how many there were of each kind
    counts  the clients' answers, by operation and answer
    etcd    the version of etcd that is played on
    """

    seconds: float
    elapsed: float = 0.0
    state: str = "starting"
    active: dict[int, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    counts: dict[str, int] = field(default_factory=dict)
    etcd: str = ""


def names_of(shape: Shape) -> Names:
    """The parts of a world of this shape."""
    return Names(MEMBERS, shape.auth_names, shape.node_names)


def play(plan: Plan, shape: Shape, folder: Path, tell: Callable[[Progress], None] | None = None) -> Progress:
    """Carries a plan out. Must be called from the main thread. Raises LocalMeshError if the world does not start."""
    progress = Progress(plan.seconds)
    if tell is not None:
        tell(progress)
    with World(folder, shape) as world, ExitStack() as stack:
        observer = Observer(world.cluster.settings(PREFIX), world.layout, world.history, lambda: world.life)
        world.before_restore.append(observer.stop)
        world.after_restore.append(observer.start)
        stack.callback(observer.stop)
        observer.start()
        progress.etcd = world.cluster.version()
        world.note("meta", etcd=progress.etcd, **_meta(shape))
        with _Clients(world, plan.seed, progress) as clients:
            _Conductor(world, plan, progress, clients).conduct()
            progress.state = "ending"
        # What the clients did last, the observer is to see too.
        threading.Event().wait(_LAST_LOOK)
    return progress


def _meta(shape: Shape) -> dict[str, Any]:
    return {
        "freshness": shape.freshness,
        "token_lifetime": shape.token_lifetime,
        "refresh_grace": shape.refresh_grace,
        "leeway": shape.leeway,
        "auths": shape.auth_names,
        "nodes": shape.node_names,
    }


class _Conductor:
    """Begins and ends faults at their times."""

    def __init__(self, world: World, plan: Plan, progress: Progress, clients: _Clients) -> None:
        self._world = world
        self._plan = plan
        self._progress = progress
        self._clients = clients
        self._log = (world.folder / "faults.jsonl").open("a", encoding="utf-8")
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._active: dict[int, Planned] = {}
        self._healed_at: float | None = None  # since when nothing has been wrong, in seconds of time.monotonic()

    def conduct(self) -> None:
        """Does everything that is planned."""
        for number, fault in enumerate(self._plan.faults):
            self._at(fault.at, lambda number=number, fault=fault: self._begin(number, fault))  # type: ignore[misc]
        for calm in self._plan.calms:
            self._at(calm.begins, self._heal)
            self._at(calm.ends, lambda calm=calm: self._calmed(calm))  # type: ignore[misc]
        self._at(self._plan.seconds, lambda: None)
        self._progress.state = "running"
        began = time.monotonic()
        pause = threading.Event()
        with self._log:
            while self._queue:
                now = time.monotonic() - began
                self._progress.elapsed = now
                while self._queue and self._queue[0][0] <= now:
                    heapq.heappop(self._queue)[2]()
                self._world.watch_over()
                self._clients.check()
                pause.wait(_TICK)

    def _at(self, at: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (at, self._order, action))

    def _begin(self, number: int, fault: Planned) -> None:
        self._healed_at = None
        try:
            said = KINDS[fault.kind].begin(self._world, fault.choices)
        except grpc.RpcError as error:
            self._write(fault, "failed", str(error)[:200])
            return
        self._write(fault, "begins", said)
        self._progress.faults[fault.kind] += 1
        self._progress.active[number] = said
        self._active[number] = fault
        self._at(fault.until, lambda: self._end(number))

    def _end(self, number: int) -> None:
        fault = self._active[number]
        try:
            KINDS[fault.kind].end(self._world, fault.choices)
        except grpc.RpcError as error:
            self._write(fault, "goes on", str(error)[:200])
            if self._progress.elapsed > fault.until + _GIVE_UP:
                raise LocalMeshError(f"{fault.kind} could not be ended for {_GIVE_UP:g} s: {error}") from error
            self._at(self._progress.elapsed + _TRY_AGAIN, lambda: self._end(number))
            return
        self._write(fault, "ends", "")
        del self._progress.active[number], self._active[number]

    def _heal(self) -> None:
        if self._active:
            # A fault whose end was tried in vain so far goes first.
            self._at(self._progress.elapsed + _TRY_AGAIN, self._heal)
            return
        self._progress.state = "calm: everything must recover"
        self._world.heal()
        self._at(self._progress.elapsed + _TRY_AGAIN, self._make_room)

    def _make_room(self) -> None:
        """A member of etcd that was away when room was made raises its alarm again later."""
        try:
            self._world.cluster.free(filling.JUNK)
        except grpc.RpcError:
            self._at(self._progress.elapsed + _TRY_AGAIN, self._make_room)
        else:
            self._healed_at = time.monotonic()

    def _calmed(self, calm: Calm) -> None:
        now = time.monotonic()
        self._progress.state = "running"
        if self._healed_at is None or now - self._healed_at < calm.ends - calm.begins - _HEALING:
            # Ending what was wrong took the test bed itself too long: this was no calm, and nobody had to recover.
            return
        next_at = min((one.at for one in self._plan.faults if one.at >= calm.ends), default=self._plan.seconds)
        began, quiet = now - (calm.ends - calm.settled), now + (next_at - self._progress.elapsed)
        try:
            disagreement = self._world.cluster.disagreement()
        except grpc.RpcError:
            disagreement = ""  # it is for the mesh to show that etcd is well again
        self._world.history.write("calm", by="world", asked=began, answered=now, quiet=quiet, disagreement=disagreement)

    def _write(self, fault: Planned, what: str, said: str) -> None:
        record = {"elapsed": round(self._progress.elapsed, 3), "what": what, "said": said, **asdict(fault)}
        self._log.write(json.dumps(record) + "\n")
        self._log.flush()


class _Clients:
    """The process of the clients."""

    def __init__(self, world: World, seed: int, progress: Progress) -> None:
        settings = world.folder / "clients.json"
        settings.write_text(json.dumps(world.client_settings()))
        settings.chmod(0o600)
        self._log = world.logs / "clients.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                leashed([sys.executable, "-m", "chaos.clients", str(settings), str(seed)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(os.environ),
                text=True,
            )
        self._progress = progress
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raises LocalMeshError if the clients ended by themselves: then there is nothing to judge_refresh_token."""
        if self._process.poll() is not None:
            raise LocalMeshError(f"the clients ended with exit code {self._process.returncode}; see {self._log}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            self._progress.counts = json.loads(line)
