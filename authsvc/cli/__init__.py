"""The `credmesh` command."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Runs the command with the process's arguments and exits with its code."""
    # Imported here, so that importing the package does not load the command line.
    from authsvc.cli.group import credmesh

    credmesh(prog_name="credmesh")
