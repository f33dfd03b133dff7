"""The first accounts and the first key-encryption key, without which no user or operator can sign in.

These functions write directly into etcd, so they need access to it, as an operator's shell in the cluster has. All
later changes go through the API, which authenticates its callers.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from authsvc.accounts.accounts import new_client, new_user
from authsvc.accounts.passwords import hash_password
from authsvc.audit import audit
from interceptors.etcd.client import EtcdClient, Put, Unchanged
from interceptors.keyspace import Layout

__all__ = [
    "AUTH_AUDIENCE",
    "OPERATOR_SCOPES",
    "SERVICE_SCOPES",
    "ensure_client",
    "ensure_user",
    "generate_kek",
    "seed_development",
]

AUTH_AUDIENCE: Final = "credmesh.auth"
"""The audience of the auth service's own API."""

OPERATOR_SCOPES: Final = (
    "credmesh.accounts.read",
    "credmesh.accounts.write",
    "credmesh.introspect",
    "credmesh.keys.read",
    "credmesh.keys.write",
    "credmesh.nodes.read",
    "credmesh.revoke",
    "credmesh.sessions.read",
    "credmesh.sessions.write",
)
"""Every scope that a method of the auth service requires."""

SERVICE_SCOPES: Final = ("credmesh.introspect",)
"""The scope that a service needs to have opaque sessions resolved."""

_ACTOR: Final = "bootstrap"
_SHOP_SCOPES: Final = ("shop.read", "shop.buy")
_SHOP_AUDIENCES: Final = ("storefront", "orders", "inventory", AUTH_AUDIENCE)
_DEVELOPMENT_USERS: Final[Mapping[str, str]] = {"alice": "alice-password", "bob": "bob-password"}
_DEVELOPMENT_CLIENTS: Final[Mapping[str, tuple[str, ...]]] = {"operator": OPERATOR_SCOPES, "services": SERVICE_SCOPES}


def ensure_client(
    etcd: EtcdClient, layout: Layout, client_id: str, *, scopes: Iterable[str], audiences: Iterable[str]
) -> str | None:
    """Creates a client unless it exists. Returns its secret, which is stored only as a hash, or None if it existed.

    Raises EtcdUnavailable.
    """
    record, secret = new_client(client_id, scopes=scopes, audiences=audiences)
    key = layout.client(client_id)
    if etcd.commit([Unchanged(key, 0)], [Put(key, record.SerializeToString())]) is None:
        return None
    audit("client.create", actor=_ACTOR, client_id=client_id, scopes=list(record.scopes))
    return secret


def ensure_user(
    etcd: EtcdClient,
    layout: Layout,
    subject: str,
    password: str,
    *,
    scopes: Iterable[str],
    audiences: Iterable[str],
) -> bool:
    """Creates a user unless it exists, and returns whether it did so. An existing user keeps the password."""
    key = layout.user(subject)
    if key in etcd.read(key).values:
        return False
    record = new_user(subject, hash_password(password), scopes=scopes, audiences=audiences)
    if etcd.commit([Unchanged(key, 0)], [Put(key, record.SerializeToString())]) is None:
        return False
    audit("user.create", actor=_ACTOR, user=subject, scopes=list(record.scopes))
    return True


def generate_kek(path: Path) -> None:
    """Writes a new key-encryption key to a file that only its owner may read. FileExistsError if the file exists.

    Without its key-encryption key no signing key can be opened, so an existing file is never overwritten. Back the file
    up as a secret.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(32)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # an incomplete file would make the next attempt fail
        raise


def seed_development(etcd: EtcdClient, layout: Layout) -> dict[str, str]:
    """Creates the accounts of a development mesh. Returns the secrets of the clients that it has created, by id.

    The users are alice and bob, whose passwords are published here. The clients are "operator", which may do
    everything, and "services", which may resolve sessions. Never for production.
    """
    for subject, password in _DEVELOPMENT_USERS.items():
        ensure_user(etcd, layout, subject, password, scopes=_SHOP_SCOPES, audiences=_SHOP_AUDIENCES)
    secrets_by_client = {
        client_id: ensure_client(etcd, layout, client_id, scopes=scopes, audiences=(AUTH_AUDIENCE,))
        for client_id, scopes in _DEVELOPMENT_CLIENTS.items()
    }
    return {client_id: secret for client_id, secret in secrets_by_client.items() if secret is not None}
