"""Waiting for a condition, instead of sleeping; and signals to threads."""

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

_POLL_INTERVAL_SECONDS = 0.01


def wait_until(condition: Callable[[], T], timeout: float = 10, what: str = "") -> T:
    """Waits until the condition is true and returns its value. Fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"the condition{f' ({what})' if what else ''} was {value!r} after {timeout:g} s")
        pause.wait(_POLL_INTERVAL_SECONDS)


def signal_another_thread(pid: int, number: int) -> None:
    """Sends a signal to a thread of the process other than its main thread. The kernel may choose such a thread too."""
    libc = ctypes.CDLL(None, use_errno=True)
    for task in Path(f"/proc/{pid}/task").iterdir():
        # tgkill fails for a thread that has ended since it was listed. Then the next thread is tried.
        if int(task.name) != pid and libc.tgkill(pid, int(task.name), number) == 0:
            return
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
