"""How secrets come in and go out without passing a command line, a shell's history or a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from authsvc.cli.failure import ExitCode, Failure

__all__ = ["NEW_PASSWORD_VARIABLE", "PASSWORD_VARIABLE", "new_password", "password", "read_secret_file", "write_secret"]

PASSWORD_VARIABLE: Final = "CREDMESH_PASSWORD"  # noqa: S105 - a variable's name
NEW_PASSWORD_VARIABLE: Final = "CREDMESH_NEW_PASSWORD"  # noqa: S105 - a variable's name
_MOST: Final = 64 * 1024


def password(file: Path | None, prompt: str) -> str:
    """A password that exists: from the file (`-` is stdin), else from CREDMESH_PASSWORD, else asked for."""
    return _password(file, prompt, PASSWORD_VARIABLE, confirm=False)


def new_password(file: Path | None, prompt: str, variable: str = PASSWORD_VARIABLE) -> str:
    """A password that is to be set: as above, from this variable, and asked for twice."""
    return _password(file, prompt, variable, confirm=True)


def _password(file: Path | None, prompt: str, variable: str, *, confirm: bool) -> str:
    if file is not None:
        found = read_secret_file(file, "the password")
    elif variable in os.environ:
        found = os.environ[variable]
    elif not sys.stdin.isatty():
        raise Failure(
            "there is no terminal to ask for the password",
            next_step=f"Give it in {variable}, or with --password-file FILE (- for stdin).",
            code=ExitCode.USAGE,
        )
    else:
        found = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    if not found:
        raise Failure("the password is empty", code=ExitCode.USAGE)
    return found


def read_secret_file(file: Path, what: str) -> str:
    """What a file (`-` is stdin) holds, without the line end after it. Failure if it cannot be read as text."""
    try:
        if str(file) == "-":
            raw = sys.stdin.buffer.read(_MOST + 1)
        else:
            with file.open("rb") as stream:
                raw = stream.read(_MOST + 1)
        if len(raw) > _MOST:
            raise Failure(f"{what} in {file} is longer than {_MOST:,} bytes", code=ExitCode.USAGE)
        return raw.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise Failure(f"{what} cannot be read from {file}: {error.strerror}", code=ExitCode.USAGE) from None
    except UnicodeDecodeError:
        raise Failure(f"{what} in {file} is not text", code=ExitCode.USAGE) from None


@contextmanager
def write_secret(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Makes a new file for a secret before the secret is made, so that none is lost for want of a place.

    Yields what writes the secret; without a path it does nothing. If the block fails, or ends without a secret, the
    file is gone again. Failure if there is one already: the secret in it may be in use.
    """
    if path is None:
        yield lambda _: None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Failure(f"{path} is there already", next_step="Name another file, or move it away first.") from None
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}", code=ExitCode.USAGE) from None
    written = False

    def keep(secret: str) -> None:
        nonlocal written
        os.write(descriptor, secret.encode() + b"\n")
        os.fsync(descriptor)
        written = True

    try:
        yield keep
    finally:
        os.close(descriptor)
        if not written:
            path.unlink(missing_ok=True)
