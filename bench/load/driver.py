"""The load generator: makes calls at full speed or at a fixed rate, and checks every response."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, cast

from google.protobuf.message import Message

from bench.load.http2 import CallFailed, Connection, Request, Response

__all__ = [
    "CONNECTIONS",
    "IN_FLIGHT",
    "Check",
    "LoadResult",
    "expect_exactly",
    "make_calls",
    "open_connections",
    "parse_message",
]

M = TypeVar("M", bound=Message)

CONNECTIONS: Final = 4
"""Connections to a server, one for each simulated client process."""

IN_FLIGHT: Final = 16
"""Calls in flight on all connections together: enough to keep a server busy."""


@dataclass(slots=True)
class LoadResult:
    """What the calls gave. latencies: seconds, one for each call, if they were asked for."""

    calls: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


Check = Callable[[Response], None]


@contextmanager
def open_connections(port: int, *, ca_file: Path | None = None, count: int = CONNECTIONS) -> Iterator[list[Connection]]:
    """Connections for one round. They are not kept: a server closes connections that are idle during other rounds."""
    with ExitStack() as stack:
        yield [stack.enter_context(Connection(port, ca_file=ca_file)) for _ in range(count)]


def expect_exactly(expected: bytes) -> Check:
    """A check that requires status OK and exactly these bytes: all messages, each with its gRPC prefix."""

    def check(response: Response) -> None:
        if response.status != 0 or response.data != expected:
            raise CallFailed(f"status {response.status} ({response.details}), {len(response.data)} bytes of response")

    return check


def parse_message(response: Response, kind: type[M]) -> M:
    """The only message of a response. CallFailed unless the status is OK."""
    if response.status != 0:
        raise CallFailed(f"status {response.status} ({response.details})")
    return kind.FromString(response.data[5:])


def make_calls(
    connections: Sequence[Connection],
    next_request: Callable[[], Request | None],
    check: Check,
    *,
    seconds: float = 0.0,
    calls: int = 0,
    in_flight: int = IN_FLIGHT,
    per_second: float | None = None,
    timed: bool = False,
) -> LoadResult:
    """Makes calls for so many seconds, or so many calls.

    next_request  returns what to send next; None if that depends on a response that is still awaited
    check         checks every response, and raises CallFailed if it is wrong
    in_flight     the greatest number of calls in flight on all connections together
    per_second    the rate at which calls start, whatever the server answers, as long as `in_flight` allows it; None for
                  full speed
    timed         whether to measure latencies
    """
    result = LoadResult()
    start_times: dict[tuple[Connection, int], float] = {}
    started_at = time.perf_counter()
    deadline = started_at + seconds if seconds else float("inf")
    left = calls if calls else 1 << 60
    started = 0
    in_flight_each = max(1, in_flight // len(connections))

    def is_due() -> bool:
        return per_second is None or started < (time.perf_counter() - started_at) * per_second

    def refill(connection: Connection) -> None:
        nonlocal left, started
        while left and len(connection.open) < in_flight_each and connection.may_start and is_due():
            request = next_request()
            if request is None:
                break
            stream = connection.start(request)
            if timed:
                start_times[connection, stream] = time.perf_counter()
            left -= 1
            started += 1
        connection.flush()

    def end(connection: Connection, stream: int, response: Response) -> None:
        check(response)
        result.calls += 1
        if timed:
            result.latencies.append(time.perf_counter() - start_times.pop((connection, stream)))

    def wait_seconds() -> float | None:
        """Until the next call is due; None to wait for a response only."""
        if per_second is None or time.perf_counter() >= deadline or not left:
            return None
        if all(len(connection.open) >= in_flight_each or not connection.may_start for connection in connections):
            return None
        return max(0.0, started_at + started / per_second - time.perf_counter())

    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
            refill(connection)
        while any(connection.open for connection in connections) or wait_seconds() is not None:
            for key, _ in selector.select(wait_seconds()):
                connection = cast(Connection, key.fileobj)
                connection.pump(end)
                if per_second is None and time.perf_counter() < deadline:
                    refill(connection)
                else:
                    connection.flush()
            if per_second is not None and time.perf_counter() < deadline:
                # The connection with the fewest calls in flight takes the calls that are due.
                for connection in sorted(connections, key=lambda one: len(one.open)):
                    refill(connection)
    result.seconds = time.perf_counter() - started_at
    return result
