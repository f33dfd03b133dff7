"""Requests to a mesh that is up: over a socket in its folder, one line of JSON each way."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from localmesh.errors import LocalMeshError

__all__ = ["ControlRequest", "ControlServer", "is_up", "lock_folder", "send_request", "wait_until_down"]

_log: Final = logging.getLogger("credmesh.localmesh")

_SOCKET_NAME: Final = "control.sock"
_LOCK_NAME: Final = "lock"
_TIMEOUT_SECONDS: Final = 30.0
_POLL_INTERVAL_SECONDS: Final = 0.05
_MAX_LINE_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class ControlRequest:
    """A request to the mesh. The thread that drives the mesh puts the answer."""

    body: Mapping[str, Any]
    answer: queue.SimpleQueue[Mapping[str, Any]] = field(default_factory=queue.SimpleQueue)


class ControlServer:
    """Accepts requests and puts them into `inbox`. The thread that drives the mesh answers them."""

    def __init__(self, folder: Path, inbox: queue.SimpleQueue[Any]) -> None:
        self._inbox = inbox
        self._folder = folder
        # A mesh that was killed left its socket behind. The folder is locked, so no live mesh uses it.
        (folder / _SOCKET_NAME).unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _socket_address(folder) as address:
            self._socket.bind(address)
        (folder / _SOCKET_NAME).chmod(0o600)
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops accepting requests."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=5)
        (self._folder / _SOCKET_NAME).unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rwb") as stream:
                connection.settimeout(_TIMEOUT_SECONDS)
                body = json.loads(stream.readline(_MAX_LINE_BYTES))
                if not isinstance(body, dict):
                    raise ValueError("a request is a JSON object")  # noqa: TRY004 - a value from outside
                request = ControlRequest(body)
                self._inbox.put(request)
                stream.write(json.dumps(request.answer.get(timeout=_TIMEOUT_SECONDS)).encode() + b"\n")
        except (OSError, ValueError, queue.Empty) as error:
            _log.warning("a control request failed: %s", error)


def send_request(folder: Path, **body: Any) -> dict[str, Any]:
    """Sends a request to the mesh in this folder and returns its answer.

    LocalMeshError if no mesh is up there, or if it refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            with _socket_address(folder) as address:
                connection.connect(address)
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(body).encode() + b"\n")
                stream.flush()
                line = stream.readline(_MAX_LINE_BYTES)
    except OSError:
        raise LocalMeshError(f"no mesh is up in {folder}; start one with: make run") from None
    if not line:
        raise LocalMeshError(f"the mesh in {folder} is shutting down")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise LocalMeshError(str(answer["error"]))
    return answer


def is_up(folder: Path) -> bool:
    """Whether a mesh is up in this folder."""
    try:
        send_request(folder, do="status")
    except LocalMeshError:
        return False
    return True


def lock_folder(folder: Path) -> IO[str]:
    """Creates the folder and locks it until the returned file is closed. LocalMeshError if it is locked already.

    The kernel releases the lock when the process ends, also when it is killed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (folder / _LOCK_NAME).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise LocalMeshError(f"a mesh is already up in {folder}; use it, or stop it with: make down") from None
    return lock


def wait_until_down(folder: Path, timeout: float) -> None:
    """Waits until every process of the mesh in this folder has ended. LocalMeshError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while folder.exists():
        try:
            lock_folder(folder).close()
        except LocalMeshError:
            if time.monotonic() > deadline:
                raise LocalMeshError(f"the mesh in {folder} is still stopping after {timeout:g} s") from None
            time.sleep(_POLL_INTERVAL_SECONDS)
        else:
            return


@contextmanager
def _socket_address(folder: Path) -> Iterator[str]:
    """An address of the socket that is short enough.

    The address of a Unix socket has at most 107 bytes. A folder's path may be longer, so the address goes through a
    descriptor of the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_SOCKET_NAME}"
    finally:
        os.close(descriptor)
