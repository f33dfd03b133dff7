"""Who is calling: what a handler learns of the verified credential."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

__all__ = ["Caller", "credential_of_caller", "current_caller", "reset_caller", "set_caller"]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified caller of the call in hand.

    subject     the user or client that the credential speaks for (`sub`, RFC 7519 section 4.1.2)
    client_id   the client that it was given to (RFC 9068 section 2.2)
    session_id  the session behind it (`sid`), or None where there is none
    scopes      what it may do (RFC 6749 section 3.3)
    audiences   where it may be used (`aud`)
    expires_at  when it expires, in seconds since 1970 (`exp`)
    epoch       the etcd revision from which on it counts as issued
    claims      a token's claims, or an opaque session's attributes; read-only
    actor       who acts for the subject (`act`, RFC 8693 section 4.1), or None
    """

    subject: str
    client_id: str
    session_id: str | None
    scopes: frozenset[str]
    audiences: frozenset[str]
    expires_at: float
    epoch: int
    claims: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, repr=False)
    actor: str | None = None


class _Presented(Protocol):
    """A verified credential together with its caller. Both travel in one variable: one write per call."""

    caller: Caller
    credential: str


_presented: Final[ContextVar[_Presented]] = ContextVar("credmesh_presented")

set_caller: Final = _presented.set
"""Called by the server interceptors, where the handler runs."""

reset_caller: Final = _presented.reset
"""Undoes `set_caller`, by the token that it returned, where the thread goes on to serve other calls."""


def current_caller() -> Caller:
    """The caller of the call that this handler serves.

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
    """The caller's own bearer credential, for propagation to the next service; None outside a protected handler."""
    presented = _presented.get(None)
    return None if presented is None else presented.credential
