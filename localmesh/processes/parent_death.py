"""Runs a command that the kernel kills when its parent process dies: `parent_death.py PARENT_PID COMMAND …`.

A supervisor that is killed with SIGKILL cannot end its children. PR_SET_PDEATHSIG makes the kernel do it, and survives
exec. This small program sets it, and not the supervisor between fork and exec: a process that has threads may call
almost nothing there.

The command also gets its own session: Ctrl-C reaches the supervisor only, which then stops the parts in order. SIGINT
gets its default action, because a shell starts its background jobs with SIGINT ignored.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent and becomes the command."""
    parent = int(sys.argv[1])
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        print(f"parent_death: prctl failed: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
    # The parent may have died before prctl took effect.
    if os.getppid() != parent:
        raise SystemExit("parent_death: the parent process has already ended")
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the purpose of this program


if __name__ == "__main__":
    main()
