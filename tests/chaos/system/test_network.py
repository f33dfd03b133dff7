"""The network of the test bed: what it does to bytes, over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.system.links import Wires
from chaos.system.network import ANY, Way

HELD = Way(held=True)


class Echo:
    """A server that answers everything by itself."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def stop(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    one = Echo()
    yield one
    one.stop()


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    with Wires(tmp_path / "network.log") as one:
        yield one


def connect(address: str, timeout: float = 5) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def ask(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return answer(connection, len(text))


def answer(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = connection.recv(65536)
        if not data:
            raise ConnectionResetError("the other side has gone")
        received += data
    return received


@pytest.mark.parametrize("way", [("a", "b"), ("b", "a")], ids=["there", "back"])
def test_a_cut_holds_everything_back_and_loses_nothing(wires: Wires, echo: Echo, way: tuple[str, str]) -> None:
    link = wires.links([("a", "b", echo.address)])["a", "b"]
    with connect(link) as connection:
        assert ask(connection, b"before") == b"before"
        wires.ways({way: HELD})
        connection.sendall(b"during")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        wires.ways({way: Way()})
        connection.settimeout(5)
        assert answer(connection, 6) == b"during"


def test_a_cut_is_of_its_own_links_only(wires: Wires, echo: Echo) -> None:
    links = wires.links([("a", "b", echo.address), ("c", "b", echo.address)])
    wires.ways({("a", "b"): HELD, ("b", "a"): HELD})
    with connect(links["c", "b"]) as connection:
        assert ask(connection, b"hello") == b"hello"


def test_a_link_that_is_refused_is_reset_and_takes_no_new_connection(wires: Wires, echo: Echo) -> None:
    link = wires.links([("a", "b", echo.address)])["a", "b"]
    with connect(link) as connection:
        assert ask(connection, b"before") == b"before"
        wires.refuse([("a", "b")])
        with pytest.raises(OSError):
            ask(connection, b"during")
    with pytest.raises(OSError), connect(link) as connection:
        ask(connection, b"again")
    wires.allow([("a", "b")])
    with connect(link) as connection:
        assert ask(connection, b"after") == b"after"


def test_whoever_opened_it_a_connection_between_two_is_refused(wires: Wires, echo: Echo) -> None:
    """As between members of etcd: a cut is of the link, and not of who happened to connect."""
    link = wires.links([("a", "b", echo.address)])["a", "b"]
    wires.refuse([("b", "a")])
    with pytest.raises(OSError), connect(link) as connection:
        ask(connection, b"during")
    wires.allow([("b", "a")])
    with connect(link) as connection:
        assert ask(connection, b"after") == b"after"


def test_a_slow_link_delays_and_keeps_the_order(wires: Wires, echo: Echo) -> None:
    link = wires.links([("a", "b", echo.address)])["a", "b"]
    wires.ways({("a", "b"): Way(delay=0.05, jitter=0.05, loss=0.3)})
    text = bytes(range(256)) * 400
    with connect(link, timeout=20) as connection:
        began = time.monotonic()
        sender = threading.Thread(target=connection.sendall, args=(text,))
        sender.start()
        assert answer(connection, len(text)) == text
        assert time.monotonic() - began >= 0.05
        sender.join()


def test_members_of_etcd_are_told_apart_by_what_they_say_of_themselves(wires: Wires, echo: Echo) -> None:
    """They share one address per member: who calls stands in a header of its first request."""
    link = wires.links([(ANY, "etcd-2", echo.address)])[ANY, "etcd-2"]
    wires.members({"abc1": "etcd-1", "abc3": "etcd-3"})
    wires.ways({("etcd-1", "etcd-2"): HELD})
    header = b"GET /raft/stream HTTP/1.1\r\nX-Server-From: %s\r\n\r\n"
    with connect(link) as first, connect(link) as third:
        assert ask(third, header % b"abc3")
        first.sendall(header % b"abc1")
        first.settimeout(0.2)
        with pytest.raises(TimeoutError):
            first.recv(100)
