"""Load: calls at full speed, each answer checked."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, cast

from google.protobuf.message import Message

from bench.load.http2 import Answer, CallFailed, Connection, Request

__all__ = ["CONNECTIONS", "IN_FLIGHT", "Check", "Load", "connected", "drive", "exactly", "message"]

M = TypeVar("M", bound=Message)

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


Check = Callable[[Answer], None]


@contextmanager
def connected(port: int, *, ca_file: Path | None = None, count: int = CONNECTIONS) -> Iterator[list[Connection]]:
    """Connections for one round. None is kept: a server ends those that are silent while others have their turn."""
    with ExitStack() as stack:
        yield [stack.enter_context(Connection(port, ca_file=ca_file)) for _ in range(count)]


def exactly(expected: bytes) -> Check:
    """Wants every call answered OK and with these bytes: all messages, each with its gRPC prefix."""

    def check(answer: Answer) -> None:
        if answer.status != 0 or answer.data != expected:
            raise CallFailed(f"status {answer.status} ({answer.details}), {len(answer.data)} bytes of answer")

    return check


def message(answer: Answer, kind: type[M]) -> M:
    """The one message of an answer that has to be OK."""
    if answer.status != 0:
        raise CallFailed(f"status {answer.status} ({answer.details})")
    return kind.FromString(answer.data[5:])


def drive(
    connections: Sequence[Connection],
    next_request: Callable[[], Request | None],
    check: Check,
    *,
    seconds: float = 0.0,
    calls: int = 0,
    in_flight: int = IN_FLIGHT,
    timed: bool = False,
) -> Load:
    """Calls for so many seconds, or so many times.

    next_request  what to send next; None if that depends on an answer that is still awaited
    check         looks at every answer, and raises CallFailed if it is not what it should be
    in_flight     of all connections together
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
            request = next_request()
            if request is None:
                break
            stream = connection.start(request)
            if timed:
                started[connection, stream] = time.perf_counter()
            left -= 1
        connection.flush()

    def end(connection: Connection, stream: int, answer: Answer) -> None:
        check(answer)
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
