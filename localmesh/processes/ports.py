"""TCP ports of this machine that nobody uses, given to one asker at a time.

A part that is down must find its port free when it comes back, also while other local meshes and test beds start parts
of theirs. So a port that was given out stays reserved until the process that asked for it ends: by a lock of one byte
of a file that all of them know. Only those who ask here heed it.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import threading
from pathlib import Path
from typing import Final

from localmesh.errors import LocalMeshError

__all__ = ["HOST", "free_port", "is_free"]

HOST: Final = "127.0.0.1"

_PORTS: Final = range(10_000, 32_000)
"""Below the range that Linux takes outgoing connections' ports from: one of those (even a client's that tries to reach
the very port) would otherwise sooner or later sit on a port that a restarted server wants back."""
_TRIES: Final = 1000


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody else is given while this process lives."""
    for port in random.sample(_PORTS, _TRIES):
        if _reservations.take(port) and is_free(port):
            return port
    raise LocalMeshError(f"no free port was found on {HOST} from {_PORTS.start} to {_PORTS.stop}")


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that a former run closed linger for a minute, and are no reason to move.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class _Reservations:
    """The bytes of the file that this process has locked: the kernel lets go of them when it ends, however it ends."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._taken: set[int] = set()
        self._file: int | None = None
        self._owner = 0

    def take(self, port: int) -> bool:
        """Reserves a port; False if it is reserved already, by whomever."""
        with self._mutex:
            if self._owner != os.getpid():
                # The locks of a process are its own: what it forks has none of them.
                self._owner, self._taken, self._file = os.getpid(), set(), None
            if port in self._taken:
                return False
            if self._file is None:
                self._file = _open()
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except (BlockingIOError, PermissionError):
                return False
            self._taken.add(port)
            return True


_reservations: Final = _Reservations()


def _open() -> int:
    path = Path(tempfile.gettempdir()) / f"credmesh-ports-{os.getuid()}"
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalMeshError(f"ports cannot be reserved: {error}") from error
