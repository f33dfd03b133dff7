"""Where a credential comes from. A source only says what to ask for; `Credentials` and `AioCredentials` ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from credmesh.auth.v1 import auth_pb2

__all__ = ["CallerToken", "ClientSecret", "FixedToken", "PasswordLogin", "RefreshTokenLogin", "Source"]


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """Signs a user in, and again when the session has ended: whoever holds the password may.

    audiences  the services that the credential is for; empty for all that the user may call
    scopes     what it may do; empty for all that the user holds
    opaque     asks for one opaque session token in place of an access token and a refresh token
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
        """What to ask the auth service for."""
        return auth_pb2.LoginRequest(
            password=auth_pb2.PasswordGrant(subject=self.subject, password=self.password),
            audiences=self.audiences,
            scopes=self.scopes,
            kind=_kind(opaque=self.opaque),
        )


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """Signs a client in for itself (RFC 6749 section 4.4), and again when its token ends. Options as PasswordLogin."""

    client_id: str
    client_secret: str = field(repr=False)
    audiences: Sequence[str] = field(default=(), kw_only=True)
    scopes: Sequence[str] = field(default=(), kw_only=True)
    opaque: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_names("ClientSecret", self.audiences, self.scopes)
        if not self.client_id or not self.client_secret:
            raise ValueError("ClientSecret needs a client_id and a client_secret; one of them is empty")

    def login_request(self) -> auth_pb2.LoginRequest:
        """What to ask the auth service for."""
        return auth_pb2.LoginRequest(
            client_credentials=auth_pb2.ClientCredentialsGrant(
                client_id=self.client_id, client_secret=self.client_secret
            ),
            audiences=self.audiences,
            scopes=self.scopes,
            kind=_kind(opaque=self.opaque),
        )


@dataclass(frozen=True, slots=True)
class RefreshTokenLogin:
    """Carries on a session by its refresh token. When the session has ended, calls fail: somebody has to sign in.

    A refresh token is used up by its first use; give `on_rotate` to keep the next one.
    """

    refresh_token: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_token("RefreshTokenLogin", self.refresh_token)


@dataclass(frozen=True, slots=True)
class FixedToken:
    """One access token or session token that somebody else looks after. It is sent as it is until the end."""

    token: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_token("FixedToken", self.token)


@dataclass(frozen=True, slots=True)
class CallerToken:
    """Propagation: sends on the credential of the call that is being served, so that the next service sees its caller.

    Works in the handler of a protected method (and in what the handler starts, where context variables follow).
    Anywhere else the call fails with LookupError. The next service's audience must be in the caller's credential.
    """


Source = PasswordLogin | ClientSecret | RefreshTokenLogin | FixedToken | CallerToken


def _kind(*, opaque: bool) -> auth_pb2.CredentialKind.ValueType:
    return auth_pb2.CREDENTIAL_KIND_SESSION if opaque else auth_pb2.CREDENTIAL_KIND_TOKENS


def _check_names(source: str, audiences: Sequence[str], scopes: Sequence[str]) -> None:
    for option, names in (("audiences", audiences), ("scopes", scopes)):
        if isinstance(names, str):
            raise TypeError(f"{source}: {option} is a sequence of names, not one string; for example ({names!r},)")


def _check_token(source: str, token: str) -> None:
    # What cannot be a header's value would otherwise surface in each call, as an error that speaks of metadata.
    if not token:
        raise ValueError(f"{source}: the token is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{source}: the token holds a space, a line break or another character that no token has; give it without "
            "'Bearer ', and strip what was read from a file"
        )
