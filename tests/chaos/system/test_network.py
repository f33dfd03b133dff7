"""The network of the test bed, over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.system.links import NetworkLinks
from chaos.system.network import ANY, LinkCondition

HELD = LinkCondition(held=True)


class Echo:
    """A server that sends back the bytes that it receives."""

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
def links(tmp_path: Path) -> Iterator[NetworkLinks]:
    with NetworkLinks(tmp_path / "network.log") as one:
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
def test_a_cut_holds_bytes_back_and_loses_none(links: NetworkLinks, echo: Echo, way: tuple[str, str]) -> None:
    link = links.open_links([("a", "b", echo.address)])["a", "b"]
    with connect(link) as connection:
        assert ask(connection, b"before") == b"before"
        links.set_conditions({way: HELD})
        connection.sendall(b"during")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        links.set_conditions({way: LinkCondition()})
        connection.settimeout(5)
        assert answer(connection, 6) == b"during"


def test_a_cut_does_not_affect_other_links(links: NetworkLinks, echo: Echo) -> None:
    addresses = links.open_links([("a", "b", echo.address), ("c", "b", echo.address)])
    links.set_conditions({("a", "b"): HELD, ("b", "a"): HELD})
    with connect(addresses["c", "b"]) as connection:
        assert ask(connection, b"hello") == b"hello"


def test_a_refused_link_is_reset_and_accepts_no_connection(links: NetworkLinks, echo: Echo) -> None:
    link = links.open_links([("a", "b", echo.address)])["a", "b"]
    with connect(link) as connection:
        assert ask(connection, b"before") == b"before"
        links.refuse([("a", "b")])
        with pytest.raises(OSError):
            ask(connection, b"during")
    with pytest.raises(OSError), connect(link) as connection:
        ask(connection, b"again")
    links.allow([("a", "b")])
    with connect(link) as connection:
        assert ask(connection, b"after") == b"after"


def test_a_refused_link_is_refused_in_both_directions(links: NetworkLinks, echo: Echo) -> None:
    """Members of etcd connect to each other both ways: a cut is of the link, not of one direction."""
    link = links.open_links([("a", "b", echo.address)])["a", "b"]
    links.refuse([("b", "a")])
    with pytest.raises(OSError), connect(link) as connection:
        ask(connection, b"during")
    links.allow([("b", "a")])
    with connect(link) as connection:
        assert ask(connection, b"after") == b"after"


def test_a_slow_link_delays_and_keeps_the_order(links: NetworkLinks, echo: Echo) -> None:
    link = links.open_links([("a", "b", echo.address)])["a", "b"]
    links.set_conditions({("a", "b"): LinkCondition(delay=0.05, jitter=0.05, loss=0.3)})
    text = bytes(range(256)) * 400
    with connect(link, timeout=20) as connection:
        began = time.monotonic()
        sender = threading.Thread(target=connection.sendall, args=(text,))
        sender.start()
        assert answer(connection, len(text)) == text
        assert time.monotonic() - began >= 0.05
        sender.join()


def test_members_of_etcd_are_told_apart_by_their_peer_header(links: NetworkLinks, echo: Echo) -> None:
    """All members connect to the same address of a member; a header of the first request names the connecting one."""
    link = links.open_links([(ANY, "etcd-2", echo.address)])[ANY, "etcd-2"]
    links.set_etcd_members({"abc1": "etcd-1", "abc3": "etcd-3"})
    links.set_conditions({("etcd-1", "etcd-2"): HELD})
    header = b"GET /raft/stream HTTP/1.1\r\nX-Server-From: %s\r\n\r\n"
    with connect(link) as first, connect(link) as third:
        assert ask(third, header % b"abc3")
        first.sendall(header % b"abc1")
        first.settimeout(0.2)
        with pytest.raises(TimeoutError):
            first.recv(100)
