"""Reading and writing secrets without exposing them on a command line, in a shell's history or in a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from authsvc.cli.failure import ExitCode, Failure

__all__ = [
    "NEW_PASSWORD_VARIABLE",
    "PASSWORD_VARIABLE",
    "create_secret_file",
    "read_new_password",
    "read_password",
    "read_secret_file",
]

PASSWORD_VARIABLE: Final = "CREDMESH_PASSWORD"  # noqa: S105 - a variable's name
NEW_PASSWORD_VARIABLE: Final = "CREDMESH_NEW_PASSWORD"  # noqa: S105 - a variable's name
_MAX_SECRET_BYTES: Final = 64 * 1024


def read_password(file: Path | None, prompt: str) -> str:
    """Reads an existing password: from the file (`-` is stdin), else from CREDMESH_PASSWORD, else from a prompt."""
    return _read_password(file, prompt, PASSWORD_VARIABLE, confirm=False)


def read_new_password(file: Path | None, prompt: str, variable: str = PASSWORD_VARIABLE) -> str:
    """Reads a password to set: from the file, else from the variable, else from a prompt that asks twice."""
    return _read_password(file, prompt, variable, confirm=True)


def _read_password(file: Path | None, prompt: str, variable: str, *, confirm: bool) -> str:
    if file is not None:
        password = read_secret_file(file, "the password")
    elif variable in os.environ:
        password = os.environ[variable]
    elif not sys.stdin.isatty():
        option = "--new-password-file" if variable == NEW_PASSWORD_VARIABLE else "--password-file"
        raise Failure(
            "the password is missing, and there is no terminal to ask for it",
            next_step=f"Set {variable}, or give {option} FILE (`-` for stdin).",
            code=ExitCode.USAGE,
        )
    else:
        password = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    if not password:
        raise Failure("the password is empty", code=ExitCode.USAGE)
    return password


def read_secret_file(file: Path, content: str) -> str:
    """Reads a file (`-` is stdin) without the line end at its end. Failure if it cannot be read as text.

    content  what the file should hold, for messages, e.g. "the password"
    """
    try:
        if str(file) == "-":
            raw = sys.stdin.buffer.read(_MAX_SECRET_BYTES + 1)
        else:
            with file.open("rb") as stream:
                raw = stream.read(_MAX_SECRET_BYTES + 1)
        if len(raw) > _MAX_SECRET_BYTES:
            raise Failure(f"{content} in {file} is longer than {_MAX_SECRET_BYTES:,} bytes", code=ExitCode.USAGE)
        return raw.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise Failure(f"{content} cannot be read from {file}: {error.strerror}", code=ExitCode.USAGE) from None
    except UnicodeDecodeError:
        raise Failure(f"{content} in {file} is not text", code=ExitCode.USAGE) from None


@contextmanager
def create_secret_file(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Creates a file for a secret before the secret exists. So no new secret is lost because a file cannot be made.

    Yields a function that writes the secret. Without a path that function does nothing. If the block fails or writes no
    secret, the file is removed. Failure if the file exists: the secret in it may be in use.
    """
    if path is None:
        yield lambda _: None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Failure(f"{path} exists already", next_step="Name another file, or move this one away first.") from None
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}", code=ExitCode.USAGE) from None
    written = False

    def write(secret: str) -> None:
        nonlocal written
        os.write(descriptor, secret.encode() + b"\n")
        os.fsync(descriptor)
        written = True

    try:
        yield write
    finally:
        os.close(descriptor)
        if not written:
            path.unlink(missing_ok=True)
