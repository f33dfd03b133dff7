"""Load: calls at full speed, each answer checked."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from bench.wire import Answer, CallFailed, Connection, Request

__all__ = ["CONNECTIONS", "IN_FLIGHT", "Load", "drive"]

CONNECTIONS: Final = 4
"""Client processes that a server has at once; each has a connection of its own."""

IN_FLIGHT: Final = 16
"""Calls that are under way at any time, of all connections together: enough that the server is never idle."""


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
    connections: Sequence[Connection],
    next_request: Callable[[], Request],
    expected: bytes,
    *,
    seconds: float = 0.0,
    calls: int = 0,
    in_flight: int = IN_FLIGHT,
    timed: bool = False,
) -> Load:
    """Calls for so many seconds, or so many times. CallFailed unless every call is answered OK and as `expected`.

    expected   the bytes of all messages of an answer, each with its gRPC prefix
    in_flight  of all connections together
    """
    load = Load()
    started: dict[tuple[Connection, int], float] = {}
    begun = time.perf_counter()
    deadline = begun + seconds if seconds else float("inf")
    left = calls if calls else 1 << 60
    each = max(1, in_flight // len(connections))

    def refill(connection: Connection) -> None:
        nonlocal left
        while left and len(connection.open) < each and connection.may_start:
            stream = connection.start(next_request())
            if timed:
                started[connection, stream] = time.perf_counter()
            left -= 1
        connection.flush()

    def end(connection: Connection, stream: int, answer: Answer) -> None:
        if answer.status != 0 or answer.data != expected:
            raise CallFailed(f"status {answer.status} ({answer.details}), {len(answer.data)} bytes of answer")
        load.calls += 1
        if timed:
            load.latencies.append(time.perf_counter() - started.pop((connection, stream)))

    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
            refill(connection)
        while any(connection.open for connection in connections):
            for key, _ in selector.select():
                connection = cast(Connection, key.fileobj)
                connection.pump(end)
                if time.perf_counter() < deadline:
                    refill(connection)
                else:
                    connection.flush()
    load.seconds = time.perf_counter() - begun
    return load
