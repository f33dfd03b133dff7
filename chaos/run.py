"""One run: starts a world and its clients, and carries out a plan. Its result is the operation log.

The records that are written here and in `system.world`:

    meta     the settings of the clocks, and the names of the parts
    clock    a process's wall clock was set: who, ahead, before
    calm     everything had to work from t to u; no fault begins until `quiet`; a `disagreement` among etcd's members
    exit     a process ended by itself: who, code
    restore  an operator restored a backup, from t to u; the incarnation that it began

The faults are not among the records.
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
from localmesh.processes.process import tied_to_parent

__all__ = ["Progress", "part_names", "run_plan"]

_TICK_SECONDS: Final = 0.1
_RETRY_SECONDS: Final = 0.5
_MAX_HEALING_SECONDS: Final = 3.0
"""Seconds of a calm that ending the faults may take. The parts then have SETTLE_SECONDS less that to recover."""
_MAX_ENDING_SECONDS: Final = 60.0
_STOP_TIMEOUT_SECONDS: Final = 20.0
_OBSERVER_DELAY_SECONDS: Final = 0.5


@dataclass(slots=True)
class Progress:
    """The progress of a run, for display. Written by one thread, read by another.

    state   what happens now, in a few words
    active  the descriptions of the current faults
    faults  the number of faults so far, by kind
    counts  the clients' answers, by operation and answer
    etcd    etcd's version
    """

    seconds: float
    elapsed: float = 0.0
    state: str = "starting"
    active: dict[int, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    counts: dict[str, int] = field(default_factory=dict)
    etcd: str = ""


def part_names(shape: Shape) -> Names:
    """The names of the parts of a world of this shape."""
    return Names(MEMBERS, shape.auth_names, shape.node_names)


def run_plan(plan: Plan, shape: Shape, folder: Path, on_progress: Callable[[Progress], None] | None = None) -> Progress:
    """Carries a plan out. Must be called from the main thread. Raises LocalMeshError if the world does not start.

    on_progress is called once, with the object that is updated during the run.
    """
    progress = Progress(plan.seconds)
    if on_progress is not None:
        on_progress(progress)
    with World(folder, shape) as world, ExitStack() as stack:
        observer = Observer(
            world.cluster.settings(PREFIX), world.layout, world.operation_log, lambda: world.incarnation
        )
        world.before_restore.append(observer.stop)
        world.after_restore.append(observer.start)
        stack.callback(observer.stop)
        observer.start()
        progress.etcd = world.cluster.version()
        world.log("meta", etcd=progress.etcd, **_meta(shape))
        with _ClientProcess(world, plan.seed, progress) as clients:
            _FaultScheduler(world, plan, progress, clients).run()
            progress.state = "ending"
        # Gives the observer time to log the clients' last operations.
        threading.Event().wait(_OBSERVER_DELAY_SECONDS)
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


class _FaultScheduler:
    """Begins and ends faults at their times."""

    def __init__(self, world: World, plan: Plan, progress: Progress, clients: _ClientProcess) -> None:
        self._world = world
        self._plan = plan
        self._progress = progress
        self._clients = clients
        self._log = (world.folder / "faults.jsonl").open("a", encoding="utf-8")
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._active: dict[int, Planned] = {}
        self._healed_at: float | None = None  # time.monotonic() when all faults had ended; None during faults

    def run(self) -> None:
        """Carries out the whole plan."""
        for number, fault in enumerate(self._plan.faults):
            self._schedule(fault.at, lambda number=number, fault=fault: self._begin_fault(number, fault))  # type: ignore[misc]
        for calm in self._plan.calms:
            self._schedule(calm.begins, self._begin_calm)
            self._schedule(calm.ends, lambda calm=calm: self._end_calm(calm))  # type: ignore[misc]
        self._schedule(self._plan.seconds, lambda: None)
        self._progress.state = "running"
        began = time.monotonic()
        pause = threading.Event()
        with self._log:
            while self._queue:
                now = time.monotonic() - began
                self._progress.elapsed = now
                while self._queue and self._queue[0][0] <= now:
                    heapq.heappop(self._queue)[2]()
                self._world.restart_exited()
                self._clients.check()
                pause.wait(_TICK_SECONDS)

    def _schedule(self, at: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (at, self._order, action))

    def _begin_fault(self, number: int, fault: Planned) -> None:
        self._healed_at = None
        try:
            description = KINDS[fault.kind].begin(self._world, fault.choices)
        except grpc.RpcError as error:
            self._write(fault, "failed", str(error)[:200])
            return
        self._write(fault, "begins", description)
        self._progress.faults[fault.kind] += 1
        self._progress.active[number] = description
        self._active[number] = fault
        self._schedule(fault.until, lambda: self._end_fault(number))

    def _end_fault(self, number: int) -> None:
        fault = self._active[number]
        try:
            KINDS[fault.kind].end(self._world, fault.choices)
        except grpc.RpcError as error:
            self._write(fault, "goes on", str(error)[:200])
            if self._progress.elapsed > fault.until + _MAX_ENDING_SECONDS:
                raise LocalMeshError(
                    f"the fault {fault.kind} could not be ended within {_MAX_ENDING_SECONDS:g} s: {error}"
                ) from error
            self._schedule(self._progress.elapsed + _RETRY_SECONDS, lambda: self._end_fault(number))
            return
        self._write(fault, "ends", "")
        del self._progress.active[number], self._active[number]

    def _begin_calm(self) -> None:
        if self._active:
            # A fault that could not be ended yet is ended first.
            self._schedule(self._progress.elapsed + _RETRY_SECONDS, self._begin_calm)
            return
        self._progress.state = "calm: everything must recover"
        self._world.heal()
        self._schedule(self._progress.elapsed + _RETRY_SECONDS, self._free_quota)

    def _free_quota(self) -> None:
        """Frees etcd's quota: a member that was away when it was freed before raises its alarm again later."""
        try:
            self._world.cluster.free(filling.JUNK)
        except grpc.RpcError:
            self._schedule(self._progress.elapsed + _RETRY_SECONDS, self._free_quota)
        else:
            self._healed_at = time.monotonic()

    def _end_calm(self, calm: Calm) -> None:
        now = time.monotonic()
        self._progress.state = "running"
        if self._healed_at is None or now - self._healed_at < calm.ends - calm.begins - _MAX_HEALING_SECONDS:
            # The test bed took too long to end the faults: this was no calm, and nothing had to recover in it.
            return
        next_at = min((one.at for one in self._plan.faults if one.at >= calm.ends), default=self._plan.seconds)
        began, quiet = now - (calm.ends - calm.settled), now + (next_at - self._progress.elapsed)
        try:
            disagreement = self._world.cluster.disagreement()
        except grpc.RpcError:
            disagreement = ""  # a member does not answer; the calm counts, so the checker demands that the mesh works
        self._world.operation_log.write(
            "calm", by="world", asked=began, answered=now, quiet=quiet, disagreement=disagreement
        )

    def _write(self, fault: Planned, event: str, text: str) -> None:
        record = {"elapsed": round(self._progress.elapsed, 3), "what": event, "said": text, **asdict(fault)}
        self._log.write(json.dumps(record) + "\n")
        self._log.flush()


class _ClientProcess:
    """The process of the clients."""

    def __init__(self, world: World, seed: int, progress: Progress) -> None:
        settings = world.folder / "clients.json"
        settings.write_text(json.dumps(world.client_settings()))
        settings.chmod(0o600)
        self._log = world.logs / "clients.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                tied_to_parent([sys.executable, "-m", "chaos.clients", str(settings), str(seed)]),
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
        """Raises LocalMeshError if the clients ended by themselves: the operation log would be incomplete."""
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
            self._process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            self._progress.counts = json.loads(line)
