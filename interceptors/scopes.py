"""Revocation scopes: what can be revoked at once. Each is a text, and the epoch's key in etcd ends with it."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

__all__ = ["EVERYONE", "audience_scope", "client_scope", "key_scope", "session_scope", "subject_scope"]

EVERYONE = "all"
"""The revocation scope that every credential belongs to."""


def subject_scope(subject: str) -> str:
    """The revocation scope of one subject."""
    return "sub/" + quote(subject, safe="")


def session_scope(session_id: str) -> str:
    """The revocation scope of one session."""
    return "sid/" + quote(session_id, safe="")


def client_scope(client_id: str) -> str:
    """The revocation scope of one client."""
    return "client/" + quote(client_id, safe="")


def audience_scope(audience: str) -> str:
    """The revocation scope of one audience."""
    return "aud/" + quote(audience, safe="")


@lru_cache(maxsize=1024)
def key_scope(kid: str) -> str:
    """The revocation scope of all that one key has signed.

    Its epoch kills whatever epoch a credential claims: whoever has the key writes that claim as he likes.
    """
    return "kid/" + quote(kid, safe="")
