"""Sources of credentials. A source describes the request to the auth service; `Credentials` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from credmesh.auth.v1 import auth_pb2

__all__ = ["CallerToken", "ClientSecret", "FixedToken", "PasswordLogin", "RefreshTokenLogin", "Source", "read_secret"]


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """Signs a user in with a password, and again when the session has ended.

    audiences  the services that the credential is for; empty for all that the user may call
    scopes     the scopes of the credential; empty for all scopes of the user
    opaque     requests one opaque session token instead of an access token and a refresh token
    """

    subject: str
    password: str = field(repr=False)
    audiences: Sequence[str] = field(default=(), kw_only=True)
    scopes: Sequence[str] = field(default=(), kw_only=True)
    opaque: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_names("PasswordLogin", self.audiences, self.scopes)
        if not self.subject or not self.password:
            raise ValueError("PasswordLogin needs a subject and a password; one of them is empty")

    def login_request(self) -> auth_pb2.LoginRequest:
        """Returns the request that signs in."""
        return auth_pb2.LoginRequest(
            password=auth_pb2.PasswordGrant(subject=self.subject, password=self.password),
            audiences=self.audiences,
            scopes=self.scopes,
            kind=_kind(opaque=self.opaque),
        )


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """Signs in as a client (RFC 6749 section 4.4), and again when the token expires. Options as of PasswordLogin.

    client_secret_file  the file with the secret, in place of `client_secret`. It is read for every login, and again if
                        the login is refused, so a new secret needs no restart
    """

    client_id: str
    client_secret: str = field(default="", repr=False)
    client_secret_file: str | PathLike[str] | None = field(default=None, kw_only=True)
    audiences: Sequence[str] = field(default=(), kw_only=True)
    scopes: Sequence[str] = field(default=(), kw_only=True)
    opaque: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_names("ClientSecret", self.audiences, self.scopes)
        if self.client_secret_file is not None:
            if self.client_secret:
                raise ValueError("ClientSecret takes a client_secret or a client_secret_file; give one of the two")
            read_secret(self.client_secret_file)  # a file that cannot be used is known at once
        elif not self.client_secret:
            raise ValueError("ClientSecret needs a client_id and a client_secret; one of them is empty")
        if not self.client_id:
            raise ValueError("ClientSecret needs a client_id and a client_secret; one of them is empty")

    def login_request(self, secret: str = "") -> auth_pb2.LoginRequest:
        """Returns the request that signs in.

        secret: what the file holds, if the source has a file
        """
        return auth_pb2.LoginRequest(
            client_credentials=auth_pb2.ClientCredentialsGrant(
                client_id=self.client_id, client_secret=secret or self.client_secret
            ),
            audiences=self.audiences,
            scopes=self.scopes,
            kind=_kind(opaque=self.opaque),
        )


@dataclass(frozen=True, slots=True)
class RefreshTokenLogin:
    """Continues a session by its refresh token. When the session has ended, calls fail until a user signs in.

    A refresh token works once; give `on_rotate` to keep its successor.
    """

    refresh_token: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_token("RefreshTokenLogin", self.refresh_token)


@dataclass(frozen=True, slots=True)
class FixedToken:
    """One access token or session token that the application itself obtains and renews. It is sent unchanged."""

    token: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_token("FixedToken", self.token)


@dataclass(frozen=True, slots=True)
class CallerToken:
    """Propagates the credential of the call that is being served, so that the next service sees the same caller.

    Works in the handler of a protected method, and in tasks and threads to which its context variables were passed.
    Elsewhere a call raises LookupError. The caller's credential must hold the next service's audience.
    """


Source = PasswordLogin | ClientSecret | RefreshTokenLogin | FixedToken | CallerToken


def read_secret(file: str | PathLike[str]) -> str:
    """Returns the secret that a file holds, without blanks around it.

    ValueError if it holds none, and OSError if it cannot be read. Both name the file.
    """
    try:
        # Editors may put a byte-order mark in front.
        secret = Path(file).read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text; it must hold a client's secret") from None
    if not secret:
        raise ValueError(f"{file} is empty; it must hold a client's secret")
    return secret


def _kind(*, opaque: bool) -> auth_pb2.CredentialKind.ValueType:
    return auth_pb2.CREDENTIAL_KIND_SESSION if opaque else auth_pb2.CREDENTIAL_KIND_TOKENS


def _check_names(source: str, audiences: Sequence[str], scopes: Sequence[str]) -> None:
    for option, names in (("audiences", audiences), ("scopes", scopes)):
        if isinstance(names, str):
            raise TypeError(f"{source}: {option} is a sequence of names, not one string; for example ({names!r},)")


def _check_token(source: str, token: str) -> None:
    # Otherwise each call would fail with gRPC's error about illegal metadata, which does not name the token.
    if not token:
        raise ValueError(f"{source}: the token is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{source}: the token holds a space, a line break or another character that no token has; give it without "
            "'Bearer ', and strip a text that was read from a file"
        )
