"""Setting the wall clock of a running process from outside.

The test bed writes the number of seconds by which a process's clock is ahead to a file. The process has called `follow`
before it imported the product, and reads that file whenever Python code asks for the time of day. So the clocks that
credmesh decides by are shifted: `time.time` and `time.time_ns`. Not shifted are:

- the monotonic clock, because setting a real machine's wall clock does not affect it either;
- gRPC's deadlines: gRPC computes them by the wall clock on one side and by the kernel's on the other, so all of them
  would be early or late;
- `datetime.now`, because the product does not decide by it.

This is a hook in Python and not libfaketime, because it needs no installation and the clock can be set at any time.
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

__all__ = ["WallClock", "follow"]

_GRPC: Final = ("grpc", "grpc.aio", "grpc._channel", "grpc._common", "grpc._server")
_NUMBER: Final = struct.Struct("=d")


class WallClock:
    """The offset of a process's wall clock, as the test bed sets it. `ahead` is in seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ahead = 0.0
        path.write_bytes(_NUMBER.pack(0.0))

    @property
    def ahead(self) -> float:
        """Seconds by which the clock is ahead; negative if it is behind."""
        return self._ahead

    def set_ahead(self, ahead: float) -> None:
        """Sets the clock ahead by this many seconds; behind, if negative."""
        self._ahead = ahead
        with self.path.open("r+b") as file:
            file.write(_NUMBER.pack(ahead))


def follow(path: Path) -> None:
    """Lets this process's wall clock follow a file. Must run before a module that keeps `time.time` is imported."""
    for name in _GRPC:
        importlib.import_module(name)  # gRPC imports some of them only when they are needed
    with path.open("rb") as file:
        offset_file = mmap.mmap(file.fileno(), _NUMBER.size, access=mmap.ACCESS_READ)
    real, real_ns = time.time, time.time_ns
    _leave_alone_grpc()

    def shifted() -> float:
        return real() + float(_NUMBER.unpack_from(offset_file)[0])

    def shifted_ns() -> int:
        return real_ns() + int(_NUMBER.unpack_from(offset_file)[0] * 1e9)

    time.time = shifted
    time.time_ns = shifted_ns


def _leave_alone_grpc() -> None:
    """Gives gRPC's own modules a `time` module that is not shifted."""
    unmoved = types.ModuleType("time")
    unmoved.__dict__.update({name: value for name, value in vars(time).items() if not name.startswith("__")})
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "grpc" and getattr(module, "time", None) is time:
            module.time = unmoved  # type: ignore[attr-defined]
