"""Listening: a port in use is found before gRPC tries it, and every address that gRPC can use is left to gRPC."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from interceptors import ServerSettings
from interceptors.serving.listening import ListenError, listen


class RecordingServer:
    """A server that records the address on which it was to listen."""

    def __init__(self) -> None:
        self.address = ""

    def add_insecure_port(self, address: str) -> int:
        self.address = address
        return 1

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        raise NotImplementedError


@contextmanager
def port_in_use() -> Iterator[int]:
    """A port of 127.0.0.1 on which a socket listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        yield taken.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::]", ""])  # noqa: S104 - the port is in use
def test_a_port_in_use_is_found_before_grpc_tries_it(host: str) -> None:
    server = RecordingServer()
    with port_in_use() as port, pytest.raises(ListenError, match="Address already in use"):
        listen(server, ServerSettings(listen=f"{host}:{port}", plaintext=True))
    assert server.address == ""


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::]:0", "127.0.0.2:{taken}", "unix:/tmp/a.sock"])
def test_grpc_tries_every_address_that_it_may_be_able_to_use(address: str) -> None:
    server = RecordingServer()
    with port_in_use() as port:
        address = address.format(taken=port)
        listen(server, ServerSettings(listen=address, plaintext=True))
    assert server.address == address
