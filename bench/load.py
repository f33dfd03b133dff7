"""Load: calls at full speed over one connection, each answer checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bench.wire import Answer, CallFailed, Connection, Request

__all__ = ["IN_FLIGHT", "Load", "drive"]

IN_FLIGHT: Final = 32
"""Calls under way at any time: as many as `serve` has threads."""


@dataclass(slots=True)
class Load:
    """What became of it. latencies: seconds, one per call, where they were asked for."""

    calls: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


def drive(
    connection: Connection,
    next_request: Callable[[], Request],
    expected: bytes,
    *,
    seconds: float = 0.0,
    calls: int = 0,
    in_flight: int = IN_FLIGHT,
    timed: bool = False,
) -> Load:
    """Calls for so many seconds, or so many times. CallFailed unless every call is answered OK and as `expected`.

    expected: the bytes of all messages of an answer, each with its gRPC prefix.
    """
    load = Load()
    started: dict[int, float] = {}
    begun = time.perf_counter()
    deadline = begun + seconds if seconds else float("inf")
    left = calls if calls else 1 << 60
    now = begun

    def ended(stream: int, answer: Answer) -> None:
        if answer.status != 0 or answer.data != expected:
            raise CallFailed(f"status {answer.status} ({answer.details}), {len(answer.data)} bytes of answer")
        load.calls += 1
        if timed:
            load.latencies.append(time.perf_counter() - started.pop(stream))

    while True:
        while left and now < deadline and len(connection.open) < in_flight and connection.may_start:
            stream = connection.start(next_request())
            if timed:
                started[stream] = time.perf_counter()
            left -= 1
        if not connection.open:
            break
        connection.pump(ended)
        now = time.perf_counter()
    load.seconds = time.perf_counter() - begun
    return load
