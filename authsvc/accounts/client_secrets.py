"""The secrets of a client: one, or two while one takes the place of the other. Pure.

The record holds hashes only. A secret's id is the beginning of its hash: enough to tell two apart, and no help to
whoever has to guess 256 random bits.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from credmesh.store.v1 import auth_pb2

__all__ = ["MOST_SECRETS", "Secret", "add_secret", "remove_secret", "secrets_of", "shows_secret"]

MOST_SECRETS: Final = 2

_ID_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class Secret:
    """A client's secret as the record knows it."""

    sha256: bytes
    created_at: Timestamp

    @property
    def id(self) -> str:
        """What operators call it by: 12 hex digits."""
        return self.sha256[:_ID_BYTES].hex()


def secrets_of(record: auth_pb2.ClientRecord) -> list[Secret]:
    """The client's secrets, oldest first."""
    # A record without a hash and a secret that cannot be read are both empty, and must not be equal.
    first = [Secret(record.secret_sha256, record.created_at)] if record.secret_sha256 else []
    return first + [Secret(one.sha256, one.created_at) for one in record.more_secrets if one.sha256]


def shows_secret(record: auth_pb2.ClientRecord, sha256: bytes) -> bool:
    """Whether this is the hash of one of the client's secrets."""
    return any(hmac.compare_digest(secret.sha256, sha256) for secret in secrets_of(record))


def add_secret(record: auth_pb2.ClientRecord, secret: Secret) -> None:
    """Adds a secret to the record. Whoever calls has made sure that there is room."""
    record.more_secrets.add(sha256=secret.sha256, created_at=secret.created_at)


def remove_secret(record: auth_pb2.ClientRecord, secret_id: str) -> bool:
    """Takes a secret out of the record; whether it was there."""
    left = [secret for secret in secrets_of(record) if secret.id != secret_id]
    if len(left) == len(secrets_of(record)):
        return False
    if not any(secret.sha256 == record.secret_sha256 for secret in left):
        record.secret_sha256 = b""
    more = [one for one in left if one.sha256 != record.secret_sha256]
    del record.more_secrets[:]
    for secret in more:
        add_secret(record, secret)
    return True
