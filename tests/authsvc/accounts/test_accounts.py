"""Users and clients on a real etcd: authentication, and the revocation in the commit that takes something away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import argon2
import pytest
from prometheus_client import REGISTRY

from authsvc.accounts.accounts import Accounts, new_client
from authsvc.accounts.passwords import Passwords, hash_password
from authsvc.accounts.principal import Account
from authsvc.errors import AlreadyExists, FailedPrecondition, InvalidField, NotFound
from credmesh.store.v1 import auth_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout
from interceptors.scopes import client_scope, subject_scope
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from tests.authsvc.conftest import SMALL
from tests.support.waiting import wait_until

PASSWORD = "correct horse"


def _alice(accounts: Accounts) -> None:
    accounts.create_user("alice", PASSWORD, scopes=["shop.read"], audiences=["storefront"])


def _refused(authenticate: Callable[[str, str], Account], name: str, secret: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        authenticate(name, secret)
    return refused.value


def _hashes() -> float:
    return REGISTRY.get_sample_value("credmesh_password_hashes_total", {"purpose": "verify"}) or 0.0


def test_a_user_is_authenticated_by_the_password(accounts: Accounts, etcd_client: EtcdClient, layout: Layout) -> None:
    _alice(accounts)
    stored = etcd_client.read(layout.user("alice")).values[layout.user("alice")]
    assert accounts.authenticate_user("alice", PASSWORD) == Account(
        subject="alice",
        client_id="password",
        scopes=("shop.read",),
        audiences=("storefront",),
        record_key=layout.user("alice"),
        record_revision=stored.mod_revision,
    )


def test_an_unknown_user_and_a_wrong_password_get_the_same_answer_and_work(accounts: Accounts) -> None:
    """The refusal and the number of computed hashes are equal; so are the parameters of the hashes."""
    _alice(accounts)
    answers = []
    for subject in ("alice", "nobody"):
        before = _hashes()
        refusal = _refused(accounts.authenticate_user, subject, "wrong")
        answers.append((refusal.reason, refusal.message, refusal.trailing_metadata(), _hashes() - before))
    assert answers[0] == answers[1]
    assert answers[0][0] is Reason.CREDENTIAL_INVALID
    assert answers[0][3] == 1


def test_neither_password_nor_secret_is_in_etcd_or_in_a_refusal(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    _alice(accounts)
    _, secret = accounts.create_client("app", scopes=[], audiences=[])
    raw = OpaqueToken.parse(secret).secret
    for value in etcd_client.read_prefix(layout.prefix).values.values():
        assert PASSWORD.encode() not in value.value
        assert secret.encode() not in value.value
        assert raw not in value.value
    wrong = OpaqueToken.generate(OpaqueKind.CLIENT_SECRET).text()
    assert wrong not in str(_refused(accounts.authenticate_client, "app", wrong))
    assert "hunter22" not in str(_refused(accounts.authenticate_user, "alice", "hunter22"))


def test_a_client_is_authenticated_by_its_secret_and_is_its_own_subject(accounts: Accounts) -> None:
    _, secret = accounts.create_client("app", scopes=["a"], audiences=["orders"])
    account = accounts.authenticate_client("app", secret)
    assert (account.subject, account.client_id, account.scopes, account.audiences) == (
        "app",
        "app",
        ("a",),
        ("orders",),
    )


@pytest.mark.parametrize("shown", ["another's", "wrong", "", "cmc_", "a session's", "x" * 74])
def test_any_other_secret_is_refused_like_an_unknown_client(accounts: Accounts, shown: str) -> None:
    accounts.create_client("app", scopes=[], audiences=[])
    _, others = accounts.create_client("other", scopes=[], audiences=[])
    secret = {
        "another's": others,
        "wrong": OpaqueToken.generate(OpaqueKind.CLIENT_SECRET).text(),
        "a session's": OpaqueToken.generate(OpaqueKind.SESSION).text(),
    }.get(shown, shown)
    known = _refused(accounts.authenticate_client, "app", secret)
    unknown = _refused(accounts.authenticate_client, "nobody", secret)
    assert known.reason is unknown.reason is Reason.CREDENTIAL_INVALID
    assert known.trailing_metadata() == unknown.trailing_metadata()


def test_a_clients_secret_is_accepted_only_as_a_clients_secret(accounts: Accounts) -> None:
    _, secret = accounts.create_client("app", scopes=[], audiences=[])
    token = OpaqueToken.parse(secret)
    for kind in (OpaqueKind.SESSION, OpaqueKind.REFRESH):
        disguised = OpaqueToken(kind, token.session_id, token.secret).text()
        assert _refused(accounts.authenticate_client, "app", disguised)


def test_a_record_without_a_hash_authenticates_no_caller(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    """A malformed secret has no hash either. The two must not compare as equal."""
    bare_client = auth_pb2.ClientRecord(format=1, client_id="app")
    bare_user = auth_pb2.UserRecord(format=1, subject="alice")
    etcd_client.commit(
        [],
        [
            Put(layout.client("app"), bare_client.SerializeToString()),
            Put(layout.user("alice"), bare_user.SerializeToString()),
        ],
    )
    for secret in ("", "junk"):
        assert _refused(accounts.authenticate_client, "app", secret)
        assert _refused(accounts.authenticate_user, "alice", secret)


def test_a_record_that_was_copied_to_another_name_authenticates_no_caller(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    _alice(accounts)
    record = etcd_client.read(layout.user("alice")).values[layout.user("alice")].value
    etcd_client.commit([], [Put(layout.user("mallory"), record)])
    assert _refused(accounts.authenticate_user, "mallory", PASSWORD).reason is Reason.CREDENTIAL_INVALID


def test_an_existing_account_is_not_created_again(accounts: Accounts) -> None:
    _alice(accounts)
    with pytest.raises(AlreadyExists, match="'alice'"):
        accounts.create_user("alice", "other password", scopes=[], audiences=[])
    accounts.authenticate_user("alice", PASSWORD)
    accounts.create_client("app", scopes=[], audiences=[])
    with pytest.raises(AlreadyExists, match="'app'"):
        accounts.create_client("app", scopes=[], audiences=[])


def test_of_many_concurrent_creations_of_a_user_one_succeeds(accounts: Accounts) -> None:
    def make(number: int) -> int | None:
        try:
            accounts.create_user("alice", f"password-{number}", scopes=[], audiences=[])
        except AlreadyExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        made = [number for number in pool.map(make, range(8)) if number is not None]
    assert len(made) == 1
    accounts.authenticate_user("alice", f"password-{made[0]}")


def test_the_client_id_of_password_credentials_is_reserved() -> None:
    with pytest.raises(InvalidField, match=r"^client_id "):
        new_client("password", scopes=[], audiences=[])


def test_setting_a_password_revokes_in_the_same_commit(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    _alice(accounts)
    revision = accounts.set_password("alice", "a new password", actor="operator")
    user, epoch = layout.user("alice"), layout.epoch(subject_scope("alice"))
    values = etcd_client.read(user, epoch, layout.beacon).values
    assert values[user].mod_revision == values[epoch].mod_revision == values[layout.beacon].mod_revision == revision
    assert accounts.authenticate_user("alice", "a new password").scopes == ("shop.read",)
    assert _refused(accounts.authenticate_user, "alice", PASSWORD).reason is Reason.CREDENTIAL_INVALID


def test_deleting_revokes_in_the_same_commit(accounts: Accounts, etcd_client: EtcdClient, layout: Layout) -> None:
    _alice(accounts)
    _, secret = accounts.create_client("app", scopes=[], audiences=[])
    attempts: list[tuple[str, str, Callable[[], int]]] = [
        (layout.user("alice"), subject_scope("alice"), lambda: accounts.delete_user("alice", actor="operator")),
        (layout.client("app"), client_scope("app"), lambda: accounts.delete_client("app", actor="operator")),
    ]
    for key, scope, delete in attempts:
        before = etcd_client.read(key).revision
        revision = delete()
        values = etcd_client.read(key, layout.epoch(scope)).values
        assert key not in values
        assert values[layout.epoch(scope)].mod_revision == revision > before
    assert _refused(accounts.authenticate_user, "alice", PASSWORD).reason is Reason.CREDENTIAL_INVALID
    assert _refused(accounts.authenticate_client, "app", secret).reason is Reason.CREDENTIAL_INVALID


def test_removing_a_scope_revokes_in_the_same_commit_and_adding_does_not(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    accounts.create_user("alice", PASSWORD, scopes=["a", "b"], audiences=["x"])
    accounts.create_client("app", scopes=["a", "b"], audiences=["x"])
    kinds: list[tuple[Callable[..., Any], str, str, str]] = [
        (accounts.update_user, "alice", layout.user("alice"), subject_scope("alice")),
        (accounts.update_client, "app", layout.client("app"), client_scope("app")),
    ]
    for update, name, key, scope in kinds:
        epoch = layout.epoch(scope)
        record, revision = update(name, scopes=["b", "a", "c"], audiences=None, actor="operator")
        assert (list(record.scopes), list(record.audiences), revision) == (["b", "a", "c"], ["x"], 0)
        assert update(name, scopes=None, audiences=["x", "y"], actor="operator")[1] == 0
        assert epoch not in etcd_client.read(epoch).values
        taken: list[dict[str, Any]] = [
            {"scopes": ["a", "d"], "audiences": None},
            {"scopes": None, "audiences": ["y", "z"]},
            {"scopes": [], "audiences": []},
        ]
        for changes in taken:
            record, revision = update(name, **changes, actor="operator")
            values = etcd_client.read(key, epoch).values
            assert values[key].mod_revision == values[epoch].mod_revision == revision > 0
        assert [*record.scopes, *record.audiences] == []
    assert accounts.authenticate_user("alice", PASSWORD).audiences == ()


def test_an_update_that_changes_nothing_writes_nothing(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    accounts.create_user("alice", PASSWORD, scopes=["a"], audiences=["x"])
    before = etcd_client.read(layout.user("alice")).revision
    assert accounts.update_user("alice", scopes=["a"], audiences=["x"], actor="operator")[1] == 0
    assert etcd_client.read(layout.user("alice")).revision == before


def test_no_concurrent_update_is_lost(accounts: Accounts) -> None:
    accounts.create_client("app", scopes=["a"], audiences=["x"])
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(accounts.update_client, "app", scopes=["b"], audiences=None, actor="operator"),
            pool.submit(accounts.update_client, "app", scopes=None, audiences=["y"], actor="operator"),
        ]
        assert all(one.result(10)[1] for one in both)
    (record,) = accounts.clients()
    assert (list(record.scopes), list(record.audiences)) == (["b"], ["y"])


def test_a_missing_account_is_not_found_and_nothing_is_revoked(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    attempts: list[Callable[[], int]] = [
        lambda: accounts.set_password("nobody", PASSWORD, actor="operator"),
        lambda: accounts.delete_user("nobody", actor="operator"),
        lambda: accounts.delete_client("nobody", actor="operator"),
        lambda: accounts.update_user("nobody", scopes=[], audiences=[], actor="operator")[1],
        lambda: accounts.update_client("nobody", scopes=[], audiences=[], actor="operator")[1],
    ]
    for attempt in attempts:
        with pytest.raises(NotFound, match="'nobody'"):
            attempt()
    assert etcd_client.count(layout.epochs) == 0


def test_passwords_set_at_once_leave_one_and_every_change_revokes(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    _alice(accounts)

    def change(number: int) -> int:
        try:
            return accounts.set_password("alice", f"password-{number}", actor="operator")
        except FailedPrecondition:
            return 0

    with ThreadPoolExecutor(4) as pool:
        revisions = list(pool.map(change, range(4)))
    last = max(revisions)
    accounts.authenticate_user("alice", f"password-{revisions.index(last)}")
    epoch = layout.epoch(subject_scope("alice"))
    assert etcd_client.read(epoch).values[epoch].mod_revision == last


def test_of_concurrent_changes_with_the_same_old_password_one_succeeds(accounts: Accounts) -> None:
    """A password that has just been replaced must not serve to set another one."""
    _alice(accounts)
    start = threading.Barrier(4)

    def change(new: str, old: str) -> str | None:
        start.wait(10)
        try:
            accounts.change_password("alice", old, new)
        except (Refusal, FailedPrecondition):
            return None
        return new

    old = PASSWORD
    with ThreadPoolExecutor(4) as pool:
        for turn in range(5):  # repeated, since the threads have to interleave between read and write
            tries = [pool.submit(change, f"password {turn} {number}", old) for number in range(4)]
            (old,) = [new for new in (one.result(30) for one in tries) if new]
            assert accounts.authenticate_user("alice", old)


def test_a_user_deleted_meanwhile_does_not_come_back_with_a_new_password(
    accounts: Accounts, passwords: Passwords, etcd_client: EtcdClient, layout: Layout
) -> None:
    """The user is deleted between the read of the record and its write, while the password waits for its hash."""
    _alice(accounts)
    let_go = threading.Event()
    busy = passwords._pool.submit(let_go.wait)
    with ThreadPoolExecutor(1) as pool:
        setting = pool.submit(accounts.set_password, "alice", "a new password", actor="operator")
        try:
            wait_until(lambda: passwords._pool._work_queue.qsize() == 1, what="the new password to wait for its hash")
            accounts.delete_user("alice", actor="operator")
        finally:
            let_go.set()
        with pytest.raises(NotFound):
            setting.result(10)
    assert busy.result(10)
    assert layout.user("alice") not in etcd_client.read(layout.user("alice")).values


def test_a_newer_record_is_not_used_or_overwritten_but_can_be_deleted(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    key = layout.user("alice")
    newer = auth_pb2.UserRecord(
        format=2, subject="alice", password_hash=hash_password(PASSWORD, SMALL)
    ).SerializeToString()
    etcd_client.commit([], [Put(key, newer), Put(layout.user("junk"), b"\xff\xff")])
    _refused(accounts.authenticate_user, "alice", PASSWORD)
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        accounts.set_password("alice", "a new password", actor="operator")
    with pytest.raises(AlreadyExists):
        accounts.create_user("alice", PASSWORD, scopes=[], audiences=[])
    assert etcd_client.read(key).values[key].value == newer
    accounts.create_user("bob", PASSWORD, scopes=[], audiences=[])
    assert [user.subject for user in accounts.users()] == ["bob"]
    accounts.delete_user("alice", actor="operator")
    assert key not in etcd_client.read(key).values


def test_an_outdated_hash_is_replaced_at_the_next_login(
    accounts: Accounts, etcd_client: EtcdClient, layout: Layout, passwords: Passwords
) -> None:
    key = layout.user("alice")
    weaker = argon2.Parameters(
        type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=1, memory_cost=32, parallelism=1
    )
    record = auth_pb2.UserRecord(format=1, subject="alice", password_hash=hash_password(PASSWORD, weaker), scopes=["a"])
    etcd_client.commit([], [Put(key, record.SerializeToString())])
    _refused(accounts.authenticate_user, "alice", "wrong")
    assert passwords.outdated(_stored(etcd_client, key).password_hash)
    account = accounts.authenticate_user("alice", PASSWORD)
    assert not passwords.outdated(_stored(etcd_client, key).password_hash)
    # Issuing compares this revision, so it must be that of the replaced hash.
    assert account.record_revision == etcd_client.read(key).values[key].mod_revision
    assert _stored(etcd_client, key).scopes == ["a"]
    assert accounts.authenticate_user("alice", PASSWORD) == account


def test_a_name_cannot_leave_its_prefix_in_etcd(accounts: Accounts, etcd_client: EtcdClient, layout: Layout) -> None:
    accounts.create_user("../clients/operator", PASSWORD, scopes=["a"], audiences=[])
    assert etcd_client.count(layout.clients) == 0
    assert [user.subject for user in accounts.users()] == ["../clients/operator"]
    assert accounts.authenticate_user("../clients/operator", PASSWORD).subject == "../clients/operator"


def _stored(etcd: EtcdClient, key: str) -> auth_pb2.UserRecord:
    return auth_pb2.UserRecord.FromString(etcd.read(key).values[key].value)
