"""A client's secret is replaced without refusing the client at any time, and cannot be guessed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from authsvc.accounts.accounts import Accounts
from authsvc.accounts.client_secrets import Secret, has_secret, secrets_of
from authsvc.accounts.principal import Account
from authsvc.errors import FailedPrecondition, NotFound
from credmesh.store.v1 import auth_pb2
from interceptors.errors import Refusal
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.scopes import client_scope
from interceptors.tokens.opaque_token import OpaqueToken


def authenticated(accounts: Accounts, secret: str) -> Account | None:
    try:
        return accounts.authenticate_client("app", secret)
    except Refusal:
        return None


def ids(accounts: Accounts) -> list[str]:
    (record,) = accounts.clients()
    return [secret.id for secret in secrets_of(record)]


def test_two_secrets_are_valid_side_by_side_until_one_is_removed(accounts: Accounts) -> None:
    _, first = accounts.create_client("app", scopes=["a"], audiences=["x"])
    _, second = accounts.add_client_secret("app")
    assert first != second
    for secret in (first, second):
        found = authenticated(accounts, secret)
        assert found is not None
        assert (found.scopes, found.audiences) == (("a",), ("x",))
    accounts.remove_client_secret("app", ids(accounts)[0], actor="operator")
    assert not authenticated(accounts, first)
    assert authenticated(accounts, second)
    # This can be repeated, and either of the two may be removed.
    _, third = accounts.add_client_secret("app")
    accounts.remove_client_secret("app", ids(accounts)[1], actor="operator")
    assert authenticated(accounts, second)
    assert not authenticated(accounts, third)


def test_removing_a_secret_revokes_in_the_same_commit_and_adding_does_not(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    accounts.create_client("app", scopes=[], audiences=[])
    accounts.add_client_secret("app")
    key, epoch = layout.client("app"), layout.epoch(client_scope("app"))
    assert epoch not in etcd_client.read(epoch).values
    _, revision = accounts.remove_client_secret("app", ids(accounts)[0], actor="operator")
    values = etcd_client.read(key, epoch).values
    assert values[key].mod_revision == values[epoch].mod_revision == revision


def test_a_client_has_at_least_one_secret_and_at_most_two(accounts: Accounts) -> None:
    _, first = accounts.create_client("app", scopes=[], audiences=[])
    with pytest.raises(FailedPrecondition, match="no other secret"):
        accounts.remove_client_secret("app", ids(accounts)[0], actor="operator")
    accounts.add_client_secret("app")
    with pytest.raises(FailedPrecondition, match="2 secrets already"):
        accounts.add_client_secret("app")
    with pytest.raises(NotFound, match="'nobody'"):
        accounts.add_client_secret("nobody")
    with pytest.raises(NotFound, match="has no secret '000000000000'"):
        accounts.remove_client_secret("app", "000000000000", actor="operator")
    assert authenticated(accounts, first)


def test_of_many_concurrent_additions_one_succeeds(accounts: Accounts) -> None:
    accounts.create_client("app", scopes=[], audiences=[])
    start = threading.Barrier(4)

    def add(_: int) -> str | None:
        start.wait(10)
        try:
            return accounts.add_client_secret("app")[1]
        except FailedPrecondition:
            return None

    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):  # repeated, since the threads have to interleave between read and write
            (secret,) = [one for one in pool.map(add, range(4)) if one]
            assert authenticated(accounts, secret)
            accounts.remove_client_secret("app", ids(accounts)[-1], actor="operator")


def test_both_secrets_cannot_be_removed_at_once(accounts: Accounts) -> None:
    accounts.create_client("app", scopes=[], audiences=[])
    accounts.add_client_secret("app")

    def remove(secret_id: str) -> bool:
        try:
            return bool(accounts.remove_client_secret("app", secret_id, actor="operator"))
        except FailedPrecondition:
            return False

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(remove, ids(accounts))) == [False, True]
    assert len(ids(accounts)) == 1


def test_no_secret_is_in_etcd_and_an_id_reveals_nothing_of_it(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    accounts.create_client("app", scopes=[], audiences=[])
    record, secret = accounts.add_client_secret("app")
    raw = OpaqueToken.parse(secret).secret
    stored = etcd_client.read(layout.client("app")).values[layout.client("app")].value
    assert raw not in stored
    assert secret.encode() not in stored
    assert raw[:6].hex() != secrets_of(record)[-1].id


def test_a_missing_hash_is_no_secret() -> None:
    """A malformed secret has no hash either. The two must not compare as equal."""
    record = auth_pb2.ClientRecord(format=1, client_id="app")
    record.more_secrets.add()
    assert not has_secret(record, b"")
    assert secrets_of(record) == []
    record.more_secrets.add(sha256=b"x" * 32)
    assert [secret.id for secret in secrets_of(record)] == [Secret(b"x" * 32, record.created_at).id]
