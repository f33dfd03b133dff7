"""Rounds of calls to a server under test: what they are, with which tokens, and what one round measures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.load.driver import CONNECTIONS, IN_FLIGHT, Load, connected, drive, exactly
from bench.load.http2 import Connection, Request, encode
from bench.shop import GET_STOCK, WATCH_STOCK, framed, stock, watched
from credmesh.samples.inventory.v1 import inventory_pb2

__all__ = ["LONG_STREAM", "SHORT_STREAM", "UNARY", "Caller", "Sample", "Served", "Work"]

_WARM_CALLS: Final = 300
_LONG: Final = 500


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of call, and what it must be answered.

    messages  how many an answer has: what is counted
    """

    path: str
    message: bytes
    expected: bytes
    messages: int = 1
    in_flight: int = IN_FLIGHT


UNARY: Final = Work(GET_STOCK, inventory_pb2.GetStockRequest(sku="tea").SerializeToString(), framed([stock("tea")]))
SHORT_STREAM: Final = Work(
    WATCH_STOCK, inventory_pb2.WatchStockRequest(sku="1").SerializeToString(), framed(watched(1))
)
LONG_STREAM: Final = Work(
    WATCH_STOCK,
    inventory_pb2.WatchStockRequest(sku=str(_LONG)).SerializeToString(),
    framed(watched(_LONG)),
    messages=_LONG,
    in_flight=8,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round gave: messages (of unary calls: calls) per second, and CPU microseconds of serving for each."""

    per_second: float
    cpu_microseconds: float


class Served(Protocol):
    """A server, or a proxy in front of one."""

    port: int
    ca_file: Path | None

    def cpu_seconds(self) -> float:
        """What serving has cost so far."""
        ...


class Caller:
    """Calls a server at full speed, for one round at a time.

    tokens  what the calls present in turn; or a function, for a new one with each call
    """

    def __init__(
        self, served: Served, tokens: Sequence[str] | Callable[[], str], *, work: Work = UNARY, seconds: float
    ) -> None:
        self._served = served
        self._work = work
        self._check = exactly(work.expected)
        self._seconds = seconds
        self._make = tokens if callable(tokens) else None
        self._in_turn: Iterator[Request] = iter(())
        self._per_second = 1000.0
        if not callable(tokens):
            encoded = [self._encode(token) for token in tokens]
            self._in_turn = itertools.cycle(encoded)
            self._warm_up(max(len(encoded), _WARM_CALLS // work.messages))
        else:
            self._in_turn = self._fresh(_WARM_CALLS)
            self._warm_up(_WARM_CALLS)

    def measure(self) -> Sample:
        """One round."""
        if self._make is None:
            return self._round(seconds=self._seconds)
        # Signed before the clock runs; a few more than the last round had time for.
        calls = max(10, int(self._per_second * self._seconds))
        self._in_turn = self._fresh(calls + CONNECTIONS)
        sample = self._round(calls=calls)
        self._per_second = sample.per_second
        return sample

    def _round(self, *, seconds: float = 0.0, calls: int = 0) -> Sample:
        work, served = self._work, self._served
        with connected(served.port, ca_file=served.ca_file) as connections:
            # What connecting costs is not what a call costs.
            self._drive(connections, calls=len(connections))
            before = served.cpu_seconds()
            load = self._drive(connections, seconds=seconds, calls=calls)
            cpu = served.cpu_seconds() - before
        return Sample(load.per_second * work.messages, cpu / (load.calls * work.messages) * 1e6)

    def _warm_up(self, calls: int) -> None:
        with connected(self._served.port, ca_file=self._served.ca_file) as connections:
            self._drive(connections, calls=calls)

    def _drive(self, connections: Sequence[Connection], *, seconds: float = 0.0, calls: int = 0) -> Load:
        take, in_flight = self._in_turn.__next__, self._work.in_flight
        return drive(connections, take, self._check, seconds=seconds, calls=calls, in_flight=in_flight)

    def _encode(self, token: str) -> Request:
        return encode(
            self._served.port, self._work.path, self._work.message, token=token, tls=self._served.ca_file is not None
        )

    def _fresh(self, count: int) -> Iterator[Request]:
        assert self._make is not None
        return iter([self._encode(self._make()) for _ in range(count)])
