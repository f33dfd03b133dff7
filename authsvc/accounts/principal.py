"""The account that signs in: a user or a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FIRST_PARTY", "Account"]

FIRST_PARTY: Final = "password"
"""The client id of credentials that are issued for a password."""


@dataclass(frozen=True, slots=True)
class Account:
    """An authenticated user or client.

    scopes, audiences  the most that its credentials may be granted
    record_key         the etcd key of its record
    record_revision    the revision of the record that was authenticated. Issuing compares it, so no credential is
                       issued on a record that has changed since
    """

    subject: str
    client_id: str
    scopes: tuple[str, ...]
    audiences: tuple[str, ...]
    record_key: str
    record_revision: int
