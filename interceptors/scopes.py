"""Revocation scopes: what can be revoked at once. A scope is a text, and the etcd key of its epoch ends with it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

__all__ = [
    "EVERYONE",
    "audience_scope",
    "client_scope",
    "is_own_scope",
    "key_scope",
    "session_of_scope",
    "session_scope",
    "subject_of_scope",
    "subject_scope",
]

EVERYONE: Final = "all"
"""The revocation scope that every credential belongs to."""

_CACHE_SIZE: Final = 1024
_SUBJECT_PREFIX: Final = "sub/"
_SESSION_PREFIX: Final = "sid/"


@lru_cache(maxsize=_CACHE_SIZE)
def subject_scope(subject: str) -> str:
    """The revocation scope of a subject."""
    return _SUBJECT_PREFIX + quote(subject, safe="")


def subject_of_scope(scope: str) -> str | None:
    """The subject whose revocation scope this is; None if it is not a subject's."""
    return unquote(scope.removeprefix(_SUBJECT_PREFIX)) if scope.startswith(_SUBJECT_PREFIX) else None


@lru_cache(maxsize=_CACHE_SIZE)
def session_scope(session_id: str) -> str:
    """The revocation scope of a session."""
    return _SESSION_PREFIX + quote(session_id, safe="")


def session_of_scope(scope: str) -> str | None:
    """The id of the session whose revocation scope this is; None if it is not a session's."""
    return unquote(scope.removeprefix(_SESSION_PREFIX)) if scope.startswith(_SESSION_PREFIX) else None


@lru_cache(maxsize=_CACHE_SIZE)
def client_scope(client_id: str) -> str:
    """The revocation scope of a client."""
    return "client/" + quote(client_id, safe="")


@lru_cache(maxsize=_CACHE_SIZE)
def audience_scope(audience: str) -> str:
    """The revocation scope of an audience."""
    return "aud/" + quote(audience, safe="")


@lru_cache(maxsize=_CACHE_SIZE)
def key_scope(kid: str) -> str:
    """The revocation scope of everything that a signing key has signed.

    Its epoch revokes a credential whatever epoch the credential claims: an attacker who has the private key chooses
    that claim.
    """
    return "kid/" + quote(kid, safe="")


def is_own_scope(scope: str) -> bool:
    """Whether a revocation scope is one subject's or one session's. All others are shared by many credentials."""
    return scope.startswith((_SUBJECT_PREFIX, _SESSION_PREFIX))
