"""Talking to a mesh that is up: a socket in its folder, one JSON line asked, one JSON line answered."""

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

__all__ = ["ControlServer", "Request", "ask", "is_up", "take_folder", "wait_until_down"]

_log: Final = logging.getLogger("credmesh.localmesh")

_NAME: Final = "control.sock"
_LOCK: Final = "lock"
_TIMEOUT: Final = 30.0
_MAX_LINE: Final = 64 * 1024


@dataclass(slots=True)
class Request:
    """Something asked of the mesh; whoever drives it puts the answer."""

    what: Mapping[str, Any]
    answer: queue.SimpleQueue[Mapping[str, Any]] = field(default_factory=queue.SimpleQueue)


class ControlServer:
    """Takes requests and hands them to `inbox`, from which the supervising thread answers them."""

    def __init__(self, folder: Path, inbox: queue.SimpleQueue[Any]) -> None:
        self._inbox = inbox
        self._folder = folder
        (folder / _NAME).unlink(missing_ok=True)  # of a mesh that was killed; the folder's lock is ours
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _address(folder) as address:
            self._socket.bind(address)
        (folder / _NAME).chmod(0o600)
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Takes no further requests."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=5)
        (self._folder / _NAME).unlink(missing_ok=True)

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
                connection.settimeout(_TIMEOUT)
                what = json.loads(stream.readline(_MAX_LINE))
                if not isinstance(what, dict):
                    raise ValueError("a request is a JSON object")  # noqa: TRY004 - it came from outside
                request = Request(what)
                self._inbox.put(request)
                stream.write(json.dumps(request.answer.get(timeout=_TIMEOUT)).encode() + b"\n")
        except (OSError, ValueError, queue.Empty) as error:
            _log.warning("a control request failed: %s", error)


def ask(folder: Path, **what: Any) -> dict[str, Any]:
    """Asks the mesh in this folder. LocalMeshError if none is up there, or it refuses."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            with _address(folder) as address:
                connection.connect(address)
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(what).encode() + b"\n")
                stream.flush()
                line = stream.readline(_MAX_LINE)
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
        ask(folder, do="status")
    except LocalMeshError:
        return False
    return True


def take_folder(folder: Path) -> IO[str]:
    """Makes the folder and takes it for this process, until the returned file is closed. LocalMeshError if it is taken.

    The kernel gives it back when the process ends, however that happens.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (folder / _LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise LocalMeshError(f"a mesh is already up in {folder}; use it, or stop it with: make down") from None
    return lock


def wait_until_down(folder: Path, timeout: float) -> None:
    """Returns when nothing of the mesh in this folder is left. LocalMeshError if that takes longer than `timeout` s."""
    deadline = time.monotonic() + timeout
    while folder.exists():
        try:
            take_folder(folder).close()
        except LocalMeshError:
            if time.monotonic() > deadline:
                raise LocalMeshError(f"the mesh in {folder} is still stopping after {timeout:g} s") from None
            time.sleep(0.05)
        else:
            return


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """The socket's address. Paths of sockets are at most 107 bytes; a folder's may be longer, a descriptor's is not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)
