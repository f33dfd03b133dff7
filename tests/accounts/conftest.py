"""Fixtures for the tests of accounts."""

from __future__ import annotations

from collections.abc import Iterator

import argon2
import pytest

from authsvc.accounts import Accounts
from authsvc.passwords import Passwords
from authsvc.revocation import Revocation
from authsvc.settings import AuthSettings
from interceptors.etcd.client import EtcdClient
from interceptors.etcd.layout import Layout
from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings
from tests.processes import ISSUER, KEK

# Small, so that the tests are quick; what is tested does not depend on it.
SMALL = argon2.Parameters(
    type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=1, memory_cost=64, parallelism=1
)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """A pool whose hashes cost next to nothing."""
    pool = Passwords(workers=1, parameters=SMALL)
    yield pool
    pool.close()


@pytest.fixture
def layout(etcd_settings: EtcdSettings) -> Layout:
    """Where this test's keys lie."""
    return Layout(etcd_settings.prefix)


@pytest.fixture
def settings(etcd_settings: EtcdSettings) -> AuthSettings:
    """The settings of a replica on this test's etcd."""
    return AuthSettings(
        mesh=MeshSettings(etcd=etcd_settings, service="auth", issuer=ISSUER),
        server=ServerSettings(listen="127.0.0.1:0", plaintext=True),
        kek=KEK,
    )


@pytest.fixture
def accounts(etcd_client: EtcdClient, layout: Layout, passwords: Passwords, settings: AuthSettings) -> Accounts:
    """The accounts in this test's etcd."""
    return Accounts(etcd_client, layout, passwords, Revocation(etcd_client, layout, settings))
