"""The network between the parts: a process of TCP proxies, each of which can be cut, slowed down and made lossy.

Run as `python -m chaos.system.network`. It is told by lines of JSON on stdin and answers each by a line on stdout:

    {"links": [[source, destination, host:port], …]}         listen for each; answers {"ports": […]} in that order
    {"members": {"<etcd's member id in hex>": name, …}}      who is who among etcd's peers
    {"ways": [[source, destination, {held, delay, jitter, loss}], …]}
                                    what becomes of bytes from source to destination, on whichever link they travel
    {"break": [[source, destination], …]}                    resets the open connections of these links
    {"refuse": [[source, destination], …]}                   refuses new ones on these links, and on no others

A cut holds bytes back and loses none: that is what TCP makes of a cut that is mended in time. A lost packet is likewise
a delay of a retransmission's length, and everything behind it waits.

The members of etcd know one address of each other, which is one listening proxy for all who call. Who calls is then
told by the header that etcd's peers send (X-Server-From). A source of "*" means such a link.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, cast

__all__ = ["ANY", "Way", "main"]

ANY: Final = "*"

_HOST: Final = "127.0.0.1"
_RETRANSMISSION: Final = 0.2
_MOST_WAITING: Final = 4 * 1024 * 1024
_MOST_HEADER: Final = 64 * 1024


@dataclass(slots=True)
class Way:
    """What becomes of bytes in one direction.

    held           they wait until they are let go
    delay, jitter  seconds that they take, and up to how many more
    loss           the chance that a retransmission is needed
    """

    held: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0

    @property
    def clear(self) -> bool:
        """Whether bytes pass at once."""
        return not (self.held or self.delay or self.jitter or self.loss)

    def takes(self, rng: random.Random) -> float:
        """Seconds that the next bytes take."""
        seconds = self.delay + self.jitter * rng.random()
        retransmission = _RETRANSMISSION
        while self.loss and rng.random() < self.loss and retransmission < 4:
            seconds += retransmission
            retransmission *= 2
        return seconds


class Network:
    """All links and connections."""

    def __init__(self) -> None:
        self.ways: dict[tuple[str, str], Way] = {}
        self.members: dict[str, str] = {}
        self.refused: set[tuple[str, str]] = set()
        self.connections: set[Connection] = set()
        self.rng = random.Random(0)  # noqa: S311 - jitter
        self._servers: list[asyncio.Server] = []

    async def listen(self, source: str, destination: str, target: str) -> int:
        """Opens a link; the port that it listens on."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Caller(self, source, destination, target), _HOST, 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def way(self, source: str, destination: str) -> Way:
        """How things stand from one part to another."""
        return self.ways.setdefault((source, destination), Way())

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carries out one order; the answer."""
        if "links" in order:
            return {"ports": [await self.listen(*link) for link in order["links"]]}
        if "members" in order:
            self.members = order["members"]
        for source, destination, way in order.get("ways", ()):
            self.ways[source, destination] = Way(**way)
        if "refuse" in order:
            self.refused = {(source, destination) for source, destination in order["refuse"]}
        broken = {(source, destination) for source, destination in order.get("break", ())}
        for connection in list(self.connections):
            if (connection.source, connection.destination) in broken:
                connection.reset()
            else:
                connection.flush()
        return {}


class Pipe:
    """One direction of a connection: bytes that wait, and where they go."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.way = Way()
        self.origin: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._bytes = 0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.full = False

    def feed(self, data: bytes | None) -> None:
        """Takes bytes in; None is the end of the stream."""
        if self.way.clear and not self._waiting and self.sink is not None:
            self._deliver(data)
            return
        now = asyncio.get_running_loop().time()
        self._last_due = max(self._last_due, now + (0.0 if self.way.held else self.way.takes(self._network.rng)))
        self._waiting.append((self._last_due, data))
        self._bytes += len(data or b"")
        self._control_flow()
        self.flush()

    def flush(self) -> None:
        """Lets go what may go by now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.way.held or self.sink is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and (self._waiting[0][0] <= now or self.way.clear):
            _, data = self._waiting.popleft()
            self._bytes -= len(data or b"")
            self._deliver(data)
        self._control_flow()
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self.flush)

    def set_full(self, full: bool) -> None:
        """The sink cannot take more for now, or can again."""
        self.full = full
        self._control_flow()

    def _deliver(self, data: bytes | None) -> None:
        assert self.sink is not None  # noqa: S101
        if self.sink.is_closing():
            return
        if data is None:
            self.sink.close()
        else:
            self.sink.write(data)

    def _control_flow(self) -> None:
        if self.origin is None or self.origin.is_closing():
            return
        if self.full or self._bytes > _MOST_WAITING:
            self.origin.pause_reading()
        else:
            self.origin.resume_reading()


class Connection:
    """A connection through a link: who calls whom, and both of its directions."""

    def __init__(self, network: Network, source: str, destination: str) -> None:
        self._network = network
        self._claimed = source
        self.destination = destination
        self.there = Pipe(network)
        self.back = Pipe(network)
        self._ends = 2

    @property
    def source(self) -> str:
        """Who calls. A peer of etcd is known once etcd's ids are."""
        return self._network.members.get(self._claimed, self._claimed)

    def claim(self, member_id: str) -> None:
        """The caller said who it is."""
        self._claimed = member_id
        self.flush()

    def flush(self) -> None:
        """Looks anew at how things stand on the way."""
        self.there.way = self._network.way(self.source, self.destination)
        self.back.way = self._network.way(self.destination, self.source)
        self.there.flush()
        self.back.flush()

    def ended(self) -> None:
        """One of its two sides is gone. What that side still said waits until the way is free."""
        self._ends -= 1
        if self._ends == 0:
            self._network.connections.discard(self)

    def reset(self) -> None:
        """Breaks it."""
        for transport in (self.there.origin, self.back.origin):
            if transport is not None:
                transport.abort()


class Caller(asyncio.Protocol):
    """The side of a connection that was opened towards the proxy."""

    def __init__(self, network: Network, source: str, destination: str, target: str) -> None:
        self._network = network
        self._target = target
        self._connection = Connection(network, source, destination)
        self._header: bytes | None = b"" if source == ANY else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opens the far side."""
        connection = self._connection
        opened = cast(asyncio.Transport, transport)
        if (connection.source, connection.destination) in self._network.refused:
            opened.abort()
            return
        self._network.connections.add(connection)
        connection.there.origin = connection.back.sink = opened
        connection.flush()
        self._opening = asyncio.get_running_loop().create_task(self._open())

    def data_received(self, data: bytes) -> None:
        """From the caller to the destination."""
        if self._header is not None:
            self._header += data
            if b"\r\n\r\n" not in self._header and len(self._header) < _MOST_HEADER:
                return
            data, self._header = self._header, None
            member = _header_value(data, b"x-server-from")
            if member:
                self._connection.claim(member)
            if (self._connection.source, self._connection.destination) in self._network.refused:
                self._connection.reset()
                return
        self._connection.there.feed(data)

    def eof_received(self) -> bool:
        """The caller has said all that it will; its answers may still come."""
        return False

    def connection_lost(self, _: Exception | None) -> None:
        """The caller is gone, which the far side learns when the way is free."""
        if self._connection.there.origin is None:
            return  # it was refused
        self._connection.ended()
        self._connection.there.feed(None)

    def pause_writing(self) -> None:
        """The caller reads too slowly."""
        self._connection.back.set_full(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._connection.back.set_full(False)

    async def _open(self) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            await asyncio.get_running_loop().create_connection(lambda: Called(self._connection), host, int(port))
        except OSError:
            self._connection.ended()
            self._connection.reset()


class Called(asyncio.Protocol):
    """The side of a connection that the proxy opened towards the destination."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The destination answers."""
        self._connection.back.origin = self._connection.there.sink = cast(asyncio.Transport, transport)
        self._connection.flush()

    def data_received(self, data: bytes) -> None:
        """From the destination to the caller."""
        self._connection.back.feed(data)

    def connection_lost(self, _: Exception | None) -> None:
        """The destination is gone."""
        self._connection.ended()
        self._connection.back.feed(None)

    def pause_writing(self) -> None:
        """The destination reads too slowly."""
        self._connection.there.set_full(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._connection.there.set_full(False)


def _header_value(request: bytes, name: bytes) -> str:
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().decode("ascii", "replace")
    return ""


async def _serve() -> None:
    network = Network()
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        answer = await network.obey(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Serves until stdin ends."""
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
