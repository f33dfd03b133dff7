"""The account that signs in: a user or a client, as of one revision of its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FIRST_PARTY", "Account"]

FIRST_PARTY: Final = "password"
"""The client id of credentials that were given for a password."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who has proven who it is, as of one revision of its record.

    scopes, audiences  what it may be granted at most
    record_key         the record's key in etcd
    record_revision    the record's revision: issuing compares it, so that nothing is issued on a record that changed
    """

    subject: str
    client_id: str
    scopes: tuple[str, ...]
    audiences: tuple[str, ...]
    record_key: str
    record_revision: int
