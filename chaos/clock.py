"""A process's wall clock, put forward or back from outside while it runs.

The test bed turns a dial: a file with one number, the seconds by which the process's clock is ahead. The process, which
called `follow` before it imported anything of ours, reads it whenever Python code asks for the time of day. So what
moves is what credmesh decides by: `time.time` and `time.time_ns`. What does not move: the monotonic clock, which no
such fault moves on a real machine either; gRPC's deadlines, which gRPC reckons by the wall clock on one side and by the
kernel's on the other, and would all be late or early; `datetime.now`, by which nothing of ours decides.

It is a hook in Python, and not libfaketime, since it needs nothing installed, and since the dial can be turned at any
time.
"""

from __future__ import annotations

import importlib
import mmap
import struct
import sys
import time
import types
from pathlib import Path
from typing import Final

__all__ = ["Dial", "follow"]

_GRPC: Final = ("grpc", "grpc.aio", "grpc._channel", "grpc._common", "grpc._server")
_NUMBER: Final = struct.Struct("=d")


class Dial:
    """The test bed's end: how far a process's wall clock is ahead, in seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ahead = 0.0
        path.write_bytes(_NUMBER.pack(0.0))

    @property
    def ahead(self) -> float:
        """What it is set to."""
        return self._ahead

    def turn(self, ahead: float) -> None:
        """Puts the clock so many seconds ahead; behind, if negative."""
        self._ahead = ahead
        with self.path.open("r+b") as file:
            file.write(_NUMBER.pack(ahead))


def follow(path: Path) -> None:
    """Has this process's wall clock follow a dial. To be called before anything that keeps `time.time` is imported."""
    for name in _GRPC:
        importlib.import_module(name)  # gRPC itself imports some of them only when they are needed
    with path.open("rb") as file:
        dial = mmap.mmap(file.fileno(), _NUMBER.size, access=mmap.ACCESS_READ)
    real, real_ns = time.time, time.time_ns
    _leave_alone_grpc()

    def shifted() -> float:
        return real() + float(_NUMBER.unpack_from(dial)[0])

    def shifted_ns() -> int:
        return real_ns() + int(_NUMBER.unpack_from(dial)[0] * 1e9)

    time.time = shifted
    time.time_ns = shifted_ns


def _leave_alone_grpc() -> None:
    """Gives gRPC's own modules a `time` that stays as it is."""
    unmoved = types.ModuleType("time")
    unmoved.__dict__.update({name: value for name, value in vars(time).items() if not name.startswith("__")})
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "grpc" and getattr(module, "time", None) is time:
            module.time = unmoved  # type: ignore[attr-defined]
