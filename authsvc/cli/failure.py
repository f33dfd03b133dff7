"""How a command fails: a message that says what happened and what to do next, and an exit code for scripts."""

from __future__ import annotations

import enum
import json
import sys
from typing import IO, Any

import click

from authsvc.cli.terminal.text import printable

__all__ = ["EXIT_CODES", "ExitCode", "Failure"]


class ExitCode(enum.IntEnum):
    """The command's exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOTHING = 4


EXIT_CODES = (
    (ExitCode.OK, "done"),
    (ExitCode.FAILED, "refused or failed; the message says why and what to do"),
    (ExitCode.USAGE, "the command, a setting or a value is wrong"),
    (ExitCode.UNREACHABLE, "the mesh cannot be reached or cannot answer now; retry"),
    (ExitCode.NOTHING, "the named thing does not exist, or there is nothing to do"),
)
"""The exit codes as `--help` lists them."""


class Failure(click.ClickException):
    """A command cannot do its task.

    The message says what happened, `next_step` what to do about it. Neither may hold a credential. `reason` is the
    `reason` of an ErrorInfo or the name of a gRPC status, for scripts.
    """

    def __init__(
        self, message: str, *, next_step: str = "", code: ExitCode = ExitCode.FAILED, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.next_step = next_step
        self.exit_code = int(code)  # type: ignore[misc]  # click declares one per class, and reads the instance's
        self.reason = reason
        self.as_json = False
        """Whether `show` writes JSON. MeshCommand sets it from --json."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Writes the failure to stderr: one paragraph for people, or one JSON object."""
        if self.as_json:
            text = json.dumps(
                {
                    "error": {
                        "message": self.message,
                        "nextStep": self.next_step,
                        "reason": self.reason,
                        "exitCode": self.exit_code,
                    }
                },
                ensure_ascii=False,
            )
        else:
            text = f"credmesh: {printable(self.message)}"
            text += "".join(f"\n  {printable(line)}" for line in self.next_step.splitlines())
        click.echo(text, file=file or sys.stderr)
