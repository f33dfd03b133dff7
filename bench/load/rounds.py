"""Rounds of calls to a server under test: kinds of calls, their tokens, and the measurement of one round."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.load.driver import CONNECTIONS, IN_FLIGHT, LoadResult, expect_exactly, make_calls, open_connections
from bench.load.http2 import Connection, Request, encode
from bench.shop import GET_STOCK, WATCH_STOCK, grpc_framed, stock_response, watch_responses
from credmesh.samples.inventory.v1 import inventory_pb2

__all__ = ["LONG_STREAM", "SHORT_STREAM", "UNARY", "CallKind", "RoundRunner", "Sample", "Target"]

_WARM_CALLS: Final = 300
_LONG_STREAM_MESSAGES: Final = 500


@dataclass(frozen=True, slots=True)
class CallKind:
    """A kind of call and its expected response.

    messages  the messages of one response; throughput counts messages
    """

    path: str
    message: bytes
    expected: bytes
    messages: int = 1
    in_flight: int = IN_FLIGHT


UNARY: Final = CallKind(
    GET_STOCK, inventory_pb2.GetStockRequest(sku="tea").SerializeToString(), grpc_framed([stock_response("tea")])
)
SHORT_STREAM: Final = CallKind(
    WATCH_STOCK, inventory_pb2.WatchStockRequest(sku="1").SerializeToString(), grpc_framed(watch_responses(1))
)
LONG_STREAM: Final = CallKind(
    WATCH_STOCK,
    inventory_pb2.WatchStockRequest(sku=str(_LONG_STREAM_MESSAGES)).SerializeToString(),
    grpc_framed(watch_responses(_LONG_STREAM_MESSAGES)),
    messages=_LONG_STREAM_MESSAGES,
    in_flight=8,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one round: messages (of unary calls: calls) per second, and the server's CPU time for each."""

    per_second: float
    cpu_microseconds: float


class Target(Protocol):
    """A server, or a proxy in front of one."""

    port: int
    ca_file: Path | None

    def cpu_seconds(self) -> float:
        """The CPU seconds so far of all processes that serve a call."""
        ...


class RoundRunner:
    """Calls a server at full speed, for one round at a time.

    tokens  the tokens that the calls present in turn; or a function that makes a new token for each call
    """

    def __init__(
        self, target: Target, tokens: Sequence[str] | Callable[[], str], *, kind: CallKind = UNARY, seconds: float
    ) -> None:
        self._target = target
        self._kind = kind
        self._check = expect_exactly(kind.expected)
        self._seconds = seconds
        self._make_token = tokens if callable(tokens) else None
        self._requests: Iterator[Request] = iter(())
        self._per_second = 1000.0
        if not callable(tokens):
            encoded = [self._encode(token) for token in tokens]
            self._requests = itertools.cycle(encoded)
            self._warm_up(max(len(encoded), _WARM_CALLS // kind.messages))
        else:
            self._requests = self._with_new_tokens(_WARM_CALLS)
            self._warm_up(_WARM_CALLS)

    def measure(self) -> Sample:
        """Runs one round."""
        if self._make_token is None:
            return self._round(seconds=self._seconds)
        # All tokens are signed before the clock runs: as many as the last round's rate needs.
        calls = max(10, int(self._per_second * self._seconds))
        self._requests = self._with_new_tokens(calls + CONNECTIONS)
        sample = self._round(calls=calls)
        self._per_second = sample.per_second
        return sample

    def _round(self, *, seconds: float = 0.0, calls: int = 0) -> Sample:
        kind, target = self._kind, self._target
        with open_connections(target.port, ca_file=target.ca_file) as connections:
            # One call on each connection first, so that the cost of connecting is not measured.
            self._make_calls(connections, calls=len(connections))
            before = target.cpu_seconds()
            load = self._make_calls(connections, seconds=seconds, calls=calls)
            cpu = target.cpu_seconds() - before
        return Sample(load.per_second * kind.messages, cpu / (load.calls * kind.messages) * 1e6)

    def _warm_up(self, calls: int) -> None:
        with open_connections(self._target.port, ca_file=self._target.ca_file) as connections:
            self._make_calls(connections, calls=calls)

    def _make_calls(self, connections: Sequence[Connection], *, seconds: float = 0.0, calls: int = 0) -> LoadResult:
        next_request, in_flight = self._requests.__next__, self._kind.in_flight
        return make_calls(connections, next_request, self._check, seconds=seconds, calls=calls, in_flight=in_flight)

    def _encode(self, token: str) -> Request:
        kind, tls = self._kind, self._target.ca_file is not None
        return encode(self._target.port, kind.path, kind.message, token=token, tls=tls)

    def _with_new_tokens(self, count: int) -> Iterator[Request]:
        assert self._make_token is not None
        return iter([self._encode(self._make_token()) for _ in range(count)])
