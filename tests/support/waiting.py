"""What tests share. Waiting happens here and nowhere else."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from localmesh.processes.ports import free_port

__all__ = ["free_port", "signal_another_thread", "wait_until"]

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 10, what: str = "") -> T:
    """Waits until the condition is true and returns what it returned; fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s in vain{f' for {what}' if what else ''}; last saw {value!r}")
        pause.wait(0.01)


def signal_another_thread(pid: int, number: int) -> None:
    """Sends a signal that a thread of the process takes which is not its main thread, as the kernel may at any time."""
    libc = ctypes.CDLL(None, use_errno=True)
    for task in Path(f"/proc/{pid}/task").iterdir():
        if int(task.name) != pid and libc.tgkill(pid, int(task.name), number) == 0:
            return  # one that has ended since it was listed is passed over
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
