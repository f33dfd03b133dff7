"""The accounts of the test bed, written to etcd before any other process runs."""

from __future__ import annotations

from dataclasses import dataclass

import argon2

from authsvc.accounts.accounts import new_user
from authsvc.accounts.bootstrap import AUTH_AUDIENCE, OPERATOR_SCOPES, SERVICE_SCOPES, ensure_client
from authsvc.accounts.passwords import hash_password
from chaos.system.service import AUDIENCE, SCOPE
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout

__all__ = ["ELSEWHERE", "OPERATOR", "OUTSIDER", "PASSWORD", "Accounts", "seed"]

OPERATOR = "operator"
SERVICES = "services"
OUTSIDER = "outsider"
"""A client with the same scopes as the programs, but for another audience."""
ELSEWHERE = "elsewhere"
PASSWORD = "one-password-for-all-users"  # noqa: S105 - of a mesh that exists for minutes
_MAKER = argon2.profiles.CHEAPEST


@dataclass(frozen=True, slots=True)
class Accounts:
    """The users' subjects, the programs' client ids, and all clients' secrets by id. All users have one password."""

    users: tuple[str, ...]
    programs: tuple[str, ...]
    secrets: dict[str, str]


def seed(etcd: EtcdClient, layout: Layout, *, users: int, programs: int) -> Accounts:
    """Creates users and programs, the operator, the outsider, and the client with which nodes resolve sessions."""
    people = tuple(f"user-{number}" for number in range(users))
    clients = tuple(f"program-{number}" for number in range(programs))
    hashed = hash_password(PASSWORD, _MAKER)
    for subject in people:
        record = new_user(subject, hashed, scopes=(SCOPE,), audiences=(AUDIENCE,))
        etcd.commit([], [Put(layout.user(subject), record.SerializeToString())])
    wanted = {
        OPERATOR: (OPERATOR_SCOPES, (AUTH_AUDIENCE,)),
        OUTSIDER: ((SCOPE,), (ELSEWHERE,)),
        SERVICES: (SERVICE_SCOPES, (AUTH_AUDIENCE,)),
        **dict.fromkeys(clients, ((SCOPE,), (AUDIENCE,))),
    }
    secrets = {}
    for client_id, (scopes, audiences) in wanted.items():
        secret = ensure_client(etcd, layout, client_id, scopes=scopes, audiences=audiences)
        if secret is None:
            raise AssertionError(f"{client_id} is there already: the prefix is not new")
        secrets[client_id] = secret
    return Accounts(people, clients, secrets)
