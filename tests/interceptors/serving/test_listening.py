"""Where a server listens: what is in the way is found before gRPC is asked, and nothing else is taken for that."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from interceptors import ServerSettings
from interceptors.serving.listening import ListenError, listen


class Asked:
    """A server that says with which address it was asked to listen."""

    def __init__(self) -> None:
        self.address = ""

    def add_insecure_port(self, address: str) -> int:
        self.address = address
        return 1

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        raise NotImplementedError


@contextmanager
def taken_port() -> Iterator[int]:
    """A port of 127.0.0.1 that somebody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        yield taken.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::]", ""])  # noqa: S104 - it is taken
def test_a_taken_port_is_found_before_grpc_is_asked(host: str) -> None:
    server = Asked()
    with taken_port() as port, pytest.raises(ListenError, match="Address already in use"):
        listen(server, ServerSettings(listen=f"{host}:{port}", plaintext=True))
    assert server.address == ""


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::]:0", "127.0.0.2:{taken}", "unix:/tmp/a.sock"])
def test_where_grpc_may_listen_it_is_asked(address: str) -> None:
    server = Asked()
    with taken_port() as port:
        address = address.format(taken=port)
        listen(server, ServerSettings(listen=address, plaintext=True))
    assert server.address == address
