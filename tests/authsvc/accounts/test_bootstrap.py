"""The first accounts and the first key-encryption key."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool

from authsvc.accounts import bootstrap
from authsvc.accounts.accounts import Accounts
from authsvc.keys.vault import Vault, read_keks
from credmesh.admin.v1 import accounts_pb2, keys_pb2, nodes_pb2, revocation_pb2, sessions_pb2
from credmesh.auth.v1 import auth_pb2
from interceptors.errors import Refusal
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.policy import rule_of


def test_a_client_is_created_once_and_its_secret_shown_once(
    etcd_client: EtcdClient, layout: Layout, accounts: Accounts
) -> None:
    def make() -> str | None:
        return bootstrap.ensure_client(etcd_client, layout, "op", scopes=["a", "b"], audiences=["credmesh.auth"])

    secret = make()
    assert secret is not None
    before = etcd_client.read(layout.client("op")).values[layout.client("op")]
    assert make() is None
    assert etcd_client.read(layout.client("op")).values[layout.client("op")] == before
    account = accounts.authenticate_client("op", secret)
    assert (account.subject, account.client_id, account.scopes) == ("op", "op", ("a", "b"))


def test_an_existing_user_keeps_the_password(etcd_client: EtcdClient, layout: Layout, accounts: Accounts) -> None:
    assert bootstrap.ensure_user(etcd_client, layout, "eve", "first-password", scopes=["a"], audiences=["orders"])
    assert not bootstrap.ensure_user(etcd_client, layout, "eve", "other-password", scopes=["b"], audiences=[])
    assert accounts.authenticate_user("eve", "first-password").scopes == ("a",)
    with pytest.raises(Refusal):
        accounts.authenticate_user("eve", "other-password")


def test_the_development_accounts_sign_in_and_are_created_once(
    etcd_client: EtcdClient, layout: Layout, accounts: Accounts
) -> None:
    secrets = bootstrap.seed_development(etcd_client, layout)
    assert sorted(secrets) == ["operator", "services"]
    assert bootstrap.seed_development(etcd_client, layout) == {}
    for subject in ("alice", "bob"):
        account = accounts.authenticate_user(subject, f"{subject}-password")
        assert account.scopes == ("shop.read", "shop.buy")
        assert set(account.audiences) == {"storefront", "orders", "inventory", "credmesh.auth"}
    assert accounts.authenticate_client("operator", secrets["operator"]).scopes == bootstrap.OPERATOR_SCOPES
    assert accounts.authenticate_client("services", secrets["services"]).scopes == ("credmesh.introspect",)


def test_an_operator_holds_every_scope_that_the_auth_service_requires() -> None:
    """Without this, the scope of a new method could be forgotten, and no operator could call the method."""
    asked: set[str] = set()
    for module in (accounts_pb2, keys_pb2, nodes_pb2, revocation_pb2, sessions_pb2, auth_pb2):
        for name in module.DESCRIPTOR.services_by_name:
            service = descriptor_pool.Default().FindServiceByName(f"{module.DESCRIPTOR.package}.{name}")
            for method in service.methods:
                asked |= rule_of(service, method).scopes
    assert asked == set(bootstrap.OPERATOR_SCOPES)
    assert list(bootstrap.OPERATOR_SCOPES) == sorted(bootstrap.OPERATOR_SCOPES)


def test_a_new_key_encryption_key_is_readable_only_by_its_owner_and_usable(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    umask = os.umask(0)
    try:
        bootstrap.generate_kek(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (kek,) = read_keks(file=path)
    assert len(kek) == len(base64.b64decode(path.read_text())) == 32
    Vault(kek)


def test_a_key_encryption_key_is_never_overwritten(tmp_path: Path) -> None:
    """All signing keys would be lost with it."""
    path = tmp_path / "kek"
    bootstrap.generate_kek(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        bootstrap.generate_kek(path)
    assert path.read_bytes() == before


def test_two_key_encryption_keys_differ(tmp_path: Path) -> None:
    for name in ("one", "two"):
        bootstrap.generate_kek(tmp_path / name)
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()
