"""Free TCP ports of this machine, each given to one process only.

A part that is down must find its port free when it restarts, although other local meshes and test beds start parts at
the same time. So a port that was given out stays reserved until the process that asked for it ends. A reservation is a
lock on one byte of a file that all these processes share. Processes that do not use this module ignore it.
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
"""Below the range from which Linux takes ports of outgoing connections. Such a connection, even of a client that is
trying to reach the very same port, could otherwise occupy the port of a server that restarts."""
_MAX_ATTEMPTS: Final = 1000


def free_port() -> int:
    """Returns a port of 127.0.0.1 that is free, and reserves it for this process's lifetime."""
    for port in random.sample(_PORTS, _MAX_ATTEMPTS):
        if _reservations.reserve(port) and is_free(port):
            return port
    raise LocalMeshError(f"no free port was found on {HOST} from {_PORTS.start} to {_PORTS.stop}")


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: closed connections of a former run stay in TIME_WAIT for a minute and do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class _Reservations:
    """The bytes of the shared file that this process has locked. The kernel releases them when the process ends."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._reserved: set[int] = set()
        self._file: int | None = None
        self._owner_pid = 0

    def reserve(self, port: int) -> bool:
        """Reserves a port. False if this or another process has reserved it already."""
        with self._mutex:
            if self._owner_pid != os.getpid():
                # A forked child does not inherit the locks of its parent.
                self._owner_pid, self._reserved, self._file = os.getpid(), set(), None
            if port in self._reserved:
                return False
            if self._file is None:
                self._file = _open_lock_file()
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except (BlockingIOError, PermissionError):
                return False
            self._reserved.add(port)
            return True


_reservations: Final = _Reservations()


def _open_lock_file() -> int:
    path = Path(tempfile.gettempdir()) / f"credmesh-ports-{os.getuid()}"
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalMeshError(f"ports cannot be reserved: {error}") from error
