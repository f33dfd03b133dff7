"""The control socket: odd requests do no harm, and deep folders are no obstacle."""

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

from localmesh.control import ControlServer, Request, ask, is_up
from localmesh.errors import LocalMeshError


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a server that answers what it was asked; its path is longer than a socket's may be."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    server = ControlServer(folder, inbox)

    def answer() -> None:
        while isinstance(request := inbox.get(), Request):
            request.answer.put({"error": "no"} if request.what.get("do") == "fail" else {"asked": dict(request.what)})

    thread = threading.Thread(target=answer)
    thread.start()
    yield folder
    server.close()
    inbox.put(None)
    thread.join()


def test_what_is_asked_is_answered(folder: Path) -> None:
    assert ask(folder, do="hold", part="etcd") == {"asked": {"do": "hold", "part": "etcd"}}
    assert is_up(folder)


def test_an_error_is_raised_where_it_was_asked(folder: Path) -> None:
    with pytest.raises(LocalMeshError, match="no"):
        ask(folder, do="fail")


def test_only_its_owner_may_ask(folder: Path) -> None:
    assert os.stat(folder / "control.sock").st_mode & 0o077 == 0


@pytest.mark.parametrize("sent", [b"", b"\n", b"not json\n", b"x" * 100_000 + b"\n", b'"a string"\n'])
def test_odd_requests_do_no_harm(folder: Path, sent: bytes) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(f"/proc/self/fd/{descriptor}/control.sock")
        os.close(descriptor)
        with suppress(ConnectionError):  # what is left unread of a request that is too long resets the connection
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(100)
    assert ask(folder, do="status")


def test_nobody_answers_where_there_is_no_mesh(tmp_path: Path) -> None:
    assert not is_up(tmp_path)
    assert not is_up(tmp_path / "absent")
    (tmp_path / "control.sock").write_text("left behind")
    with pytest.raises(LocalMeshError, match="make run"):
        ask(tmp_path, do="status")
