"""Runs a command that dies with whoever started it: `leash.py PARENT_PID COMMAND …`.

A supervisor that is killed with -9 cannot end its children. The kernel can: PR_SET_PDEATHSIG survives exec. It is set
in this small program rather than between fork and exec, where a process that has threads may do next to nothing. The
command also gets a session of its own: Ctrl-C is for the supervisor, which then stops everybody in order. SIGINT ends
it as it ends any other program, also where a shell that runs things in the background has it ignored.
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
        print(f"leash: prctl failed: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
    if os.getppid() != parent:
        raise SystemExit("leash: whoever started this is gone already")
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the whole purpose


if __name__ == "__main__":
    main()
