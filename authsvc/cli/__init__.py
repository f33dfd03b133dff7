"""The `credmesh` command."""

from __future__ import annotations

import os

__all__ = ["main"]


def main() -> None:
    """Runs the command with the process's arguments and exits with its code."""
    # Imported here, so that importing the package does not load the command line.
    from authsvc.cli.group import credmesh

    # gRPC logs what goes wrong to stderr by itself; our own message says it better. Read when grpc is first imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    credmesh(prog_name="credmesh")
