"""The caller of a call, as a handler sees it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

__all__ = ["Caller", "credential_of_caller", "current_caller", "reset_caller", "set_caller"]

_NO_CLAIMS: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of the current call, as its verified credential says.

    subject     the user or client that the credential is about (`sub`, RFC 7519 section 4.1.2)
    client_id   the client that the credential was issued to (RFC 9068 section 2.2)
    session_id  the session that the credential belongs to (`sid`), or None
    scopes      what the credential permits (RFC 6749 section 3.3)
    audiences   the services that the credential is for (`aud`)
    expires_at  when the credential expires, in seconds since 1970 (`exp`)
    epoch       the etcd revision as of which the credential was issued
    claims      a token's claims, or an opaque session's attributes; read-only
    actor       the party that acts for the subject (`act`, RFC 8693 section 4.1), or None
    """

    subject: str
    client_id: str
    session_id: str | None
    scopes: frozenset[str]
    audiences: frozenset[str]
    expires_at: float
    epoch: int
    claims: Mapping[str, Any] = field(default_factory=lambda: _NO_CLAIMS, repr=False)
    actor: str | None = None


class _Presented(Protocol):
    """A verified credential with its caller. One context variable holds both, so a call costs one write."""

    caller: Caller
    credential: str


_presented: Final[ContextVar[_Presented]] = ContextVar("credmesh_presented")

set_caller: Final = _presented.set
"""Sets the caller. The server interceptors call it in the context in which the handler runs."""

reset_caller: Final = _presented.reset
"""Undoes `set_caller`, by the token that it returned, in a thread that will serve other calls."""


def current_caller() -> Caller:
    """Returns the caller of the call that this handler serves.

    Raises LookupError outside a protected handler, and in the handler of a public method.
    """
    try:
        return _presented.get().caller
    except LookupError:
        raise LookupError(
            "there is no caller here: current_caller() works in the handler of a method whose rule is not public, on a "
            "server with a credmesh interceptor"
        ) from None


def credential_of_caller() -> str | None:
    """Returns the caller's bearer credential, to propagate it to the next service; None outside a protected handler."""
    presented = _presented.get(None)
    return None if presented is None else presented.credential
