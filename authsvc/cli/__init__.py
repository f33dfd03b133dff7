"""The `credmesh` command."""

from __future__ import annotations

import os

__all__ = ["main"]


def main() -> None:
    """Runs the command with the process's arguments and exits with its code."""
    # Imported here, so that importing the package does not load the command line.
    from authsvc.cli.group import credmesh

    # gRPC writes its errors to stderr too. The command's own messages are clearer. gRPC reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    credmesh(prog_name="credmesh")
