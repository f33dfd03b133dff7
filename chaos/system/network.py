"""The network between the parts: a process of TCP proxies, each of which can be cut, slowed down and made lossy.

Run as `python -m chaos.system.network`. It reads commands as lines of JSON from stdin, and answers each with a line on
stdout:

    {"links": [[source, destination, host:port], …]}         listens for each link; answers {"ports": […]} in that order
    {"members": {"<etcd's member id in hex>": name, …}}      names etcd's peers
    {"conditions": [[source, destination, {held, delay, jitter, loss}], …]}
                                    sets what happens to bytes from source to destination, on every link between them
    {"break": [[source, destination], …]}                    resets the open connections of these links
    {"refuse": [[source, destination], …]}                   refuses new connections on these links, and on no others

A cut holds bytes back and loses none: this is how TCP behaves if a cut is mended in time. In the same way, a lost
packet is a delay as long as a retransmission, and all bytes behind it wait.

The members of etcd know one address of each other, so a single listening proxy serves all members that connect to one.
The header X-Server-From of etcd's peer requests names the connecting member. The source of such a link is "*".
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, cast

__all__ = ["ANY", "LinkCondition", "main"]

ANY: Final = "*"

_HOST: Final = "127.0.0.1"
_RETRANSMISSION_SECONDS: Final = 0.2
_MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
_MAX_HEADER_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class LinkCondition:
    """What happens to bytes in one direction.

    held           they wait until this is False again
    delay, jitter  seconds that they take, and the most that is added at random
    loss           the probability that a retransmission is needed
    """

    held: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0

    @property
    def clear(self) -> bool:
        """Whether bytes pass at once."""
        return not (self.held or self.delay or self.jitter or self.loss)

    def draw_delay(self, rng: random.Random) -> float:
        """The seconds that the next bytes take."""
        seconds = self.delay + self.jitter * rng.random()
        retransmission = _RETRANSMISSION_SECONDS
        while self.loss and rng.random() < self.loss and retransmission < 4:
            seconds += retransmission
            retransmission *= 2
        return seconds


class Network:
    """All links and connections."""

    def __init__(self) -> None:
        self.conditions: dict[tuple[str, str], LinkCondition] = {}
        self.members: dict[str, str] = {}
        self.refused: set[tuple[str, str]] = set()
        self.connections: set[Connection] = set()
        self.rng = random.Random(0)  # noqa: S311 - jitter
        self._servers: list[asyncio.Server] = []

    async def listen(self, source: str, destination: str, target: str) -> int:
        """Opens a link. Returns the port that it listens on."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: CallerSide(self, source, destination, target), _HOST, 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def condition(self, source: str, destination: str) -> LinkCondition:
        """The condition from one part to another."""
        return self.conditions.setdefault((source, destination), LinkCondition())

    async def carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carries one command out. Returns the answer."""
        if "links" in command:
            return {"ports": [await self.listen(*link) for link in command["links"]]}
        if "members" in command:
            self.members = command["members"]
        for source, destination, condition in command.get("conditions", ()):
            self.conditions[source, destination] = LinkCondition(**condition)
        if "refuse" in command:
            self.refused = {(source, destination) for source, destination in command["refuse"]}
        broken = {(source, destination) for source, destination in command.get("break", ())}
        for connection in list(self.connections):
            if (connection.source, connection.destination) in broken:
                connection.reset()
            else:
                connection.flush()
        return {}


class Pipe:
    """One direction of a connection: the waiting bytes, their origin and their sink."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.condition = LinkCondition()
        self.origin: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._bytes = 0
        self._last_delivery_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.sink_is_full = False

    def send(self, data: bytes | None) -> None:
        """Sends bytes on, now or later; None is the end of the stream."""
        if self.condition.clear and not self._waiting and self.sink is not None:
            self._deliver(data)
            return
        now = asyncio.get_running_loop().time()
        self._last_delivery_at = max(
            self._last_delivery_at, now + (0.0 if self.condition.held else self.condition.draw_delay(self._network.rng))
        )
        self._waiting.append((self._last_delivery_at, data))
        self._bytes += len(data or b"")
        self._control_flow()
        self.flush()

    def flush(self) -> None:
        """Delivers the bytes that are due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.condition.held or self.sink is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and (self._waiting[0][0] <= now or self.condition.clear):
            _, data = self._waiting.popleft()
            self._bytes -= len(data or b"")
            self._deliver(data)
        self._control_flow()
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self.flush)

    def set_sink_full(self, sink_is_full: bool) -> None:
        """Notes whether the sink can take more bytes."""
        self.sink_is_full = sink_is_full
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
        if self.sink_is_full or self._bytes > _MAX_WAITING_BYTES:
            self.origin.pause_reading()
        else:
            self.origin.resume_reading()


class Connection:
    """A connection through a link: its source, its destination, and both of its directions."""

    def __init__(self, network: Network, source: str, destination: str) -> None:
        self._network = network
        self._claimed_source = source
        self.destination = destination
        self.forward = Pipe(network)
        self.backward = Pipe(network)
        self._ends = 2

    @property
    def source(self) -> str:
        """The part that has connected. A member of etcd is known by name once the members' ids are."""
        return self._network.members.get(self._claimed_source, self._claimed_source)

    def identify(self, member_id: str) -> None:
        """Notes the member of etcd that has connected."""
        self._claimed_source = member_id
        self.flush()

    def flush(self) -> None:
        """Applies the current conditions, and delivers the bytes that are due."""
        self.forward.condition = self._network.condition(self.source, self.destination)
        self.backward.condition = self._network.condition(self.destination, self.source)
        self.forward.flush()
        self.backward.flush()

    def ended(self) -> None:
        """One of its two sides has closed. The bytes that it sent before are still delivered when they are due."""
        self._ends -= 1
        if self._ends == 0:
            self._network.connections.discard(self)

    def reset(self) -> None:
        """Resets both sides."""
        for transport in (self.forward.origin, self.backward.origin):
            if transport is not None:
                transport.abort()


class CallerSide(asyncio.Protocol):
    """The side of a connection on which a part has connected to the proxy."""

    def __init__(self, network: Network, source: str, destination: str, target: str) -> None:
        self._network = network
        self._target = target
        self._connection = Connection(network, source, destination)
        self._header: bytes | None = b"" if source == ANY else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connects to the destination, unless the link is refused."""
        connection = self._connection
        opened = cast(asyncio.Transport, transport)
        if (connection.source, connection.destination) in self._network.refused:
            opened.abort()
            return
        self._network.connections.add(connection)
        connection.forward.origin = connection.backward.sink = opened
        connection.flush()
        self._opening = asyncio.get_running_loop().create_task(self._open())

    def data_received(self, data: bytes) -> None:
        """Passes bytes on from the source to the destination."""
        if self._header is not None:
            self._header += data
            if b"\r\n\r\n" not in self._header and len(self._header) < _MAX_HEADER_BYTES:
                return
            data, self._header = self._header, None
            member = _header_value(data, b"x-server-from")
            if member:
                self._connection.identify(member)
            if (self._connection.source, self._connection.destination) in self._network.refused:
                self._connection.reset()
                return
        self._connection.forward.send(data)

    def eof_received(self) -> bool:
        """The source sends no more; False closes its transport, which `connection_lost` passes on."""
        return False

    def connection_lost(self, _: Exception | None) -> None:
        """The source is gone. The destination learns of it after the bytes that wait before it."""
        if self._connection.forward.origin is None:
            return  # the connection was refused
        self._connection.ended()
        self._connection.forward.send(None)

    def pause_writing(self) -> None:
        """The source reads too slowly."""
        self._connection.backward.set_sink_full(True)

    def resume_writing(self) -> None:
        """The source has caught up."""
        self._connection.backward.set_sink_full(False)

    async def _open(self) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: DestinationSide(self._connection), host, int(port)
            )
        except OSError:
            self._connection.ended()
            self._connection.reset()


class DestinationSide(asyncio.Protocol):
    """The side of a connection on which the proxy has connected to the destination."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The destination has accepted the connection."""
        self._connection.backward.origin = self._connection.forward.sink = cast(asyncio.Transport, transport)
        self._connection.flush()

    def data_received(self, data: bytes) -> None:
        """Passes bytes on from the destination to the source."""
        self._connection.backward.send(data)

    def connection_lost(self, _: Exception | None) -> None:
        """The destination is gone."""
        self._connection.ended()
        self._connection.backward.send(None)

    def pause_writing(self) -> None:
        """The destination reads too slowly."""
        self._connection.forward.set_sink_full(True)

    def resume_writing(self) -> None:
        """The destination has caught up."""
        self._connection.forward.set_sink_full(False)


def _header_value(request: bytes, name: bytes) -> str:
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().decode("ascii", "replace")
    return ""


async def _serve() -> None:
    network = Network()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        answer = await network.carry_out(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Serves until stdin ends."""
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
