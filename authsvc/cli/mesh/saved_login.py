"""The credentials of `credmesh login`, saved in a file that only its owner may read."""

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

__all__ = ["SavedLogin", "delete_login", "read_login", "require_login", "usable_credential", "write_login"]

_RENEW_AHEAD_SECONDS: Final = 15.0
"""An access token that expires sooner than this is renewed: the call that uses it takes time too."""


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
        """The credentials that a login or a refresh returned at `now`."""
        return cls(
            subject=subject,
            session_id=credentials.session_id,
            access_token=credentials.access_token,
            expires_at=now + credentials.expires_in.ToNanoseconds() / 1e9,
            refresh_token=credentials.refresh_token,
            session_token=credentials.session_token,
        )


Refresh = Callable[[str], "auth_pb2.Credentials"]
"""Exchanges a refresh token for the next credentials."""


def read_login(path: Path) -> SavedLogin | None:
    """Reads the saved login; None if there is none. Failure if the file is not usable, or other users may read it."""
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
            f"other users of this machine may read the saved login {path} (mode {mode:04o})",
            next_step=f"If no one has read it: chmod 600 {path}. Else `credmesh kick` its session and delete the file.",
        )
    try:
        return SavedLogin(**json.loads(text))
    except (TypeError, ValueError):
        raise Failure(
            f"the saved login {path} cannot be used: this release does not know its format",
            next_step="Sign in again: credmesh login SUBJECT",
        ) from None


def require_login(path: Path, *, code: ExitCode = ExitCode.FAILED) -> SavedLogin:
    """Reads the saved login. Failure with the exit code `code` if there is none."""
    login = read_login(path)
    if login is None:
        raise Failure("no user is signed in", next_step="Sign in: credmesh login SUBJECT", code=code)
    return login


def write_login(path: Path, login: SavedLogin) -> None:
    """Saves a login atomically. Only its owner may read the file, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp creates files with mode 0600.
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
    """Deletes the saved login."""
    path.unlink(missing_ok=True)


def usable_credential(path: Path, refresh: Refresh, now: float, *, refused: str = "") -> str:
    """Returns the saved login's credential, and renews its access token first if it expires soon or is `refused`.

    A refresh token is good for one use, so commands that run at the same time take turns: the second one uses the token
    that the first has saved. Failure if no user is signed in.
    """
    login = require_login(path)
    if login.session_token:
        return login.session_token
    if login.access_token != refused and now < login.expires_at - _RENEW_AHEAD_SECONDS:
        return login.access_token
    unusable = login.access_token
    with _locked(path):
        login = require_login(path)
        if login.access_token == unusable:
            login = SavedLogin.of(login.subject, refresh(login.refresh_token), now)
            write_login(path, login)
        return login.session_token or login.access_token


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # A separate file, because the credentials' file is replaced while the lock is held.
    with open(path.with_suffix(".lock"), "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
