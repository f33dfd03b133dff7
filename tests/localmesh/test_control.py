"""The control socket: it survives malformed requests, and works in folders with long paths."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from localmesh.control import ControlRequest, ControlServer, is_up, send_request
from localmesh.errors import LocalMeshError


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a server that answers with the request. Its path is too long for the address of a socket."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    server = ControlServer(folder, inbox)

    def answer() -> None:
        while isinstance(request := inbox.get(), ControlRequest):
            request.answer.put({"error": "no"} if request.body.get("do") == "fail" else {"asked": dict(request.body)})

    thread = threading.Thread(target=answer)
    thread.start()
    yield folder
    server.close()
    inbox.put(None)
    thread.join()


def test_a_request_is_answered(folder: Path) -> None:
    assert send_request(folder, do="take-down", part="etcd") == {"asked": {"do": "take-down", "part": "etcd"}}
    assert is_up(folder)


def test_an_error_is_raised_in_the_process_that_sent_the_request(folder: Path) -> None:
    with pytest.raises(LocalMeshError, match="no"):
        send_request(folder, do="fail")


def test_only_the_owner_can_send_requests(folder: Path) -> None:
    assert os.stat(folder / "control.sock").st_mode & 0o077 == 0


@pytest.mark.parametrize("sent", [b"", b"\n", b"not json\n", b"x" * 100_000 + b"\n", b'"a string"\n'])
def test_a_malformed_request_does_not_stop_the_server(folder: Path, sent: bytes) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(f"/proc/self/fd/{descriptor}/control.sock")
        os.close(descriptor)
        with suppress(
            ConnectionError
        ):  # the server does not read all of a request that is too long, which resets the connection
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(100)
    assert send_request(folder, do="status")


def test_without_a_mesh_a_request_fails_with_advice(tmp_path: Path) -> None:
    assert not is_up(tmp_path)
    assert not is_up(tmp_path / "absent")
    (tmp_path / "control.sock").write_text("left behind")
    with pytest.raises(LocalMeshError, match="make run"):
        send_request(tmp_path, do="status")
