"""The secrets of a client: one, or two while one replaces the other. Pure.

The record holds only hashes. A secret's id is the beginning of its hash: it distinguishes two secrets, and does not
help to guess 256 random bits.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from credmesh.store.v1 import auth_pb2

__all__ = ["MAX_SECRETS", "Secret", "add_secret", "has_secret", "remove_secret", "secrets_of"]

MAX_SECRETS: Final = 2

_ID_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class Secret:
    """A client's secret, by its hash."""

    sha256: bytes
    created_at: Timestamp

    @property
    def id(self) -> str:
        """The id that operators use: 12 hex digits."""
        return self.sha256[:_ID_BYTES].hex()


def secrets_of(record: auth_pb2.ClientRecord) -> list[Secret]:
    """The client's secrets, oldest first."""
    # An empty hash must not count: a malformed secret hashes to b"" and would match it.
    first = [Secret(record.secret_sha256, record.created_at)] if record.secret_sha256 else []
    return first + [Secret(more.sha256, more.created_at) for more in record.more_secrets if more.sha256]


def has_secret(record: auth_pb2.ClientRecord, sha256: bytes) -> bool:
    """Whether this is the hash of one of the client's secrets."""
    return any(hmac.compare_digest(secret.sha256, sha256) for secret in secrets_of(record))


def add_secret(record: auth_pb2.ClientRecord, secret: Secret) -> None:
    """Adds a secret to the record. The caller has checked MAX_SECRETS."""
    record.more_secrets.add(sha256=secret.sha256, created_at=secret.created_at)


def remove_secret(record: auth_pb2.ClientRecord, secret_id: str) -> bool:
    """Removes a secret from the record. Returns whether it was there."""
    remaining = [secret for secret in secrets_of(record) if secret.id != secret_id]
    if len(remaining) == len(secrets_of(record)):
        return False
    if not any(secret.sha256 == record.secret_sha256 for secret in remaining):
        record.secret_sha256 = b""
    more = [secret for secret in remaining if secret.sha256 != record.secret_sha256]
    del record.more_secrets[:]
    for secret in more:
        add_secret(record, secret)
    return True
