"""The credentials of `credmesh login`, kept in a file that only its owner may read."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authsvc.cli.failure import ExitCode, Failure

if TYPE_CHECKING:
    from credmesh.auth.v1 import auth_pb2

__all__ = ["SavedLogin", "current_token", "delete_login", "read_login", "renewed_token", "write_login"]

_AHEAD: Final = 15.0
"""Seconds before its expiry from which on an access token is renewed: the call that it is for takes time too."""


@dataclass(frozen=True, kw_only=True)
class SavedLogin:
    """A user's credentials. `expires_at` is the access token's, in seconds since 1970 by this machine's clock."""

    subject: str
    session_id: str
    access_token: str = field(default="", repr=False)
    expires_at: float = 0.0
    refresh_token: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)

    @classmethod
    def of(cls, subject: str, credentials: auth_pb2.Credentials, now: float) -> SavedLogin:
        """What a login or a refresh gave, received at `now`."""
        return cls(
            subject=subject,
            session_id=credentials.session_id,
            access_token=credentials.access_token,
            expires_at=now + credentials.expires_in.ToNanoseconds() / 1e9,
            refresh_token=credentials.refresh_token,
            session_token=credentials.session_token,
        )


Refresh = Callable[[str], "auth_pb2.Credentials"]


def read_login(path: Path) -> SavedLogin | None:
    """The saved login, or None if nobody signed in. Failure if the file cannot be used, or others may read it."""
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(f"the saved login cannot be read from {path}: {error.strerror}") from None
    if mode & 0o077:
        raise Failure(
            f"others than you may read the saved login {path} (mode {mode:04o})",
            next_step=f"If nobody did: chmod 600 {path}. Otherwise: `credmesh kick` its session, then delete it.",
        )
    try:
        return SavedLogin(**json.loads(text))
    except (TypeError, ValueError):
        raise Failure(
            f"{path} holds no login that this release understands", next_step="Sign in again: credmesh login SUBJECT"
        ) from None


def write_login(path: Path, login: SavedLogin) -> None:
    """Saves a login, whole or not at all; only its owner may read the file from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp makes files with mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(login), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def delete_login(path: Path) -> None:
    """Forgets the saved login."""
    path.unlink(missing_ok=True)


def current_token(path: Path, refresh: Refresh, now: float) -> str:
    """The saved login's credential, renewed if it expires soon. Failure if nobody is signed in."""
    login = _required(path)
    if login.session_token or now < login.expires_at - _AHEAD:
        return login.session_token or login.access_token
    return renewed_token(path, refresh, now, old=login.access_token)


def renewed_token(path: Path, refresh: Refresh, now: float, *, old: str) -> str:
    """A new access token in the place of `old`, which was refused or expires soon.

    A refresh token is good for one use, so commands that run at the same time take turns: the second finds what the
    first has saved.
    """
    with _locked(path):
        login = _required(path)
        if login.access_token == old:
            login = SavedLogin.of(login.subject, refresh(login.refresh_token), now)
            write_login(path, login)
        return login.access_token


def _required(path: Path) -> SavedLogin:
    login = read_login(path)
    if login is None:
        raise Failure("nobody is signed in", next_step="Sign in: credmesh login SUBJECT", code=ExitCode.FAILED)
    return login


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # A file of its own: the credentials' file is replaced while the lock is held.
    with open(path.with_suffix(".lock"), "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
