"""What a login issues, and that no credential is issued across a change of its preconditions (I3)."""

from __future__ import annotations

import time
from collections.abc import Callable

import jwt
import pytest

from authsvc.accounts.principal import Account
from authsvc.errors import FailedPrecondition
from authsvc.settings import AuthSettings
from authsvc.store.timestamps import seconds
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import Delete, Put
from interceptors.keyspace import Layout
from interceptors.node.mesh_node import MeshNode
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from tests.support.processes import ISSUER
from tests.support.replica import ALICE_PASSWORD, Clock, InterruptedEtcdClient, Replica, claims_of
from tests.support.waiting import wait_until

SCOPES_OF_ALICE = [
    EVERYONE,
    subject_scope("alice"),
    client_scope("password"),
    audience_scope("inventory"),
    audience_scope("storefront"),
]


def test_a_login_issues_the_claims_of_rfc_9068(replica: Replica, settings: AuthSettings) -> None:
    before = int(time.time())
    credentials = replica.login()
    claims = claims_of(credentials.access_token)
    assert claims["iss"] == ISSUER
    assert claims["sub"] == "alice"
    assert claims["client_id"] == "password"
    assert claims["aud"] == ["inventory", "storefront"]
    assert claims["scope"] == "shop.buy shop.read"
    assert claims["sid"] == credentials.session_id
    assert claims["jti"]
    assert before <= claims["iat"] == claims["nbf"] <= time.time()
    assert claims["iat"] <= claims["exp"] - settings.token_lifetime + 1 <= time.time() + 1
    assert claims["session_exp"] == int(seconds(credentials.session_expires_at))
    assert list(credentials.scopes) == ["shop.buy", "shop.read"]
    assert list(credentials.audiences) == ["inventory", "storefront"]
    assert 0 < credentials.expires_in.ToTimedelta().total_seconds() <= settings.token_lifetime


def test_two_tokens_never_have_the_same_jti(replica: Replica) -> None:
    assert len({claims_of(replica.login().access_token)["jti"] for _ in range(3)}) == 3


def test_a_node_accepts_an_issued_token(replica: Replica, node: MeshNode) -> None:
    caller = node.verify(replica.login(audiences=["storefront"], scopes=["shop.read"]).access_token)
    assert caller.subject == "alice"
    assert caller.audiences == frozenset({"storefront"})
    assert caller.scopes == frozenset({"shop.read"})


def test_the_epoch_of_a_login_is_the_revision_that_its_commit_compared(replica: Replica) -> None:
    before = replica.revoke(subject_scope("alice"))
    credentials = replica.login()
    epoch = claims_of(credentials.access_token)["epoch"]
    record = replica.record(credentials.session_id)
    assert record is not None
    assert before <= epoch == record.epoch < replica.revoke(subject_scope("alice"))


def test_a_session_stores_no_secret(replica: Replica) -> None:
    credentials = replica.login()
    secret = OpaqueToken.parse(credentials.refresh_token).secret
    key = replica.layout.session(credentials.session_id)
    stored = replica.etcd.read(key).values[key].value
    assert secret not in stored
    assert secret[:8] not in stored
    assert credentials.refresh_token.encode() not in stored


def test_an_opaque_login_gives_a_session_token_and_nothing_else(replica: Replica) -> None:
    credentials = replica.login(kind=auth_pb2.CREDENTIAL_KIND_SESSION)
    token = OpaqueToken.parse(credentials.session_token)
    assert token.kind is OpaqueKind.SESSION
    assert token.session_id == credentials.session_id
    assert not credentials.access_token
    assert not credentials.refresh_token
    record = replica.record(credentials.session_id)
    assert record is not None
    assert record.kind == store_pb2.SessionRecord.KIND_OPAQUE
    assert record.secret_sha256 == token.secret_sha256


def test_a_client_gets_a_token_without_a_session(replica: Replica, node: MeshNode) -> None:
    _, secret = replica.accounts.create_client("robot", scopes=["shop.read"], audiences=["storefront"])
    credentials = replica.login(lambda: replica.accounts.authenticate_client("robot", secret))
    caller = node.verify(credentials.access_token)
    assert (caller.subject, caller.client_id, caller.session_id) == ("robot", "robot", None)
    assert not credentials.refresh_token
    assert not credentials.session_id
    assert "session_exp" not in caller.claims
    assert replica.etcd.count(replica.layout.sessions) == 0


def test_a_clients_token_dies_with_the_next_revocation(replica: Replica, node: MeshNode) -> None:
    _, secret = replica.accounts.create_client("robot", scopes=["shop.read"], audiences=["storefront"])
    token = replica.login(lambda: replica.accounts.authenticate_client("robot", secret)).access_token
    assert claims_of(token)["epoch"] < replica.revoke(client_scope("robot"))
    wait_until(
        lambda: node.bundle.epochs.find_revoked_scope([client_scope("robot")], 0),
        what="the node to apply the revocation",
    )
    with pytest.raises(Refusal) as refused:
        node.verify(token)
    assert refused.value.reason is Reason.CREDENTIAL_REVOKED


def test_a_client_may_have_an_opaque_session(replica: Replica) -> None:
    _, secret = replica.accounts.create_client("robot", scopes=["shop.read"], audiences=["storefront"])
    credentials = replica.login(
        lambda: replica.accounts.authenticate_client("robot", secret), kind=auth_pb2.CREDENTIAL_KIND_SESSION
    )
    token = OpaqueToken.parse(credentials.session_token)
    answer = replica.sessions.resolve(
        auth_pb2.ResolveSessionRequest(session_id=token.session_id, secret_sha256=token.secret_sha256)
    )
    assert answer.identity.subject == "robot"


@pytest.mark.parametrize("scope", SCOPES_OF_ALICE)
def test_a_revocation_during_the_authentication_makes_it_repeat(replica: Replica, scope: str) -> None:
    """The credential must not rest on an authentication from before the revocation."""
    revisions: list[int] = []
    asked = 0

    def authenticate() -> Account:
        nonlocal asked
        asked += 1
        account = replica.alice()
        if not revisions:
            revisions.append(replica.revoke(scope))
        return account

    token = replica.login(authenticate).access_token
    assert asked == 2
    assert claims_of(token)["epoch"] >= revisions[0]


def test_an_account_deleted_during_the_authentication_gets_nothing(replica: Replica) -> None:
    def authenticate() -> Account:
        account = replica.alice()
        replica.accounts.delete_user("alice", actor="test")
        return account

    with pytest.raises(Refusal) as refused:
        replica.login(authenticate)
    assert refused.value.reason is Reason.CREDENTIAL_INVALID
    assert replica.etcd.count(replica.layout.sessions) == 0


def test_a_password_that_changes_during_the_check_is_checked_again(replica: Replica) -> None:
    def authenticate() -> Account:
        account = replica.alice()
        replica.accounts.set_password("alice", "another-password", actor="test")
        return account

    with pytest.raises(Refusal) as refused:
        replica.login(authenticate)
    assert refused.value.reason is Reason.CREDENTIAL_INVALID


@pytest.mark.parametrize("scope", SCOPES_OF_ALICE)
def test_a_revocation_right_before_the_commit_makes_the_login_read_again(
    replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient], scope: str
) -> None:
    """The narrowest case of I3: the revocation is committed between the read and the commit of the session."""
    crossed, etcd = interrupted
    etcd.before_commit = lambda: replica.revoke(scope)
    credentials = crossed.login()
    assert claims_of(credentials.access_token)["epoch"] >= replica.epoch(scope) > 0
    assert replica.etcd.count(replica.layout.sessions) == 1, "the failed attempt left a session"


@pytest.mark.parametrize("scope", SCOPES_OF_ALICE)
def test_a_revocation_right_before_a_refresh_commits_ends_the_session(
    replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient], scope: str
) -> None:
    crossed, etcd = interrupted
    credentials = crossed.login()
    etcd.before_commit = lambda: replica.revoke(scope)
    with pytest.raises(Refusal) as refused:
        crossed.refresh(credentials.refresh_token)
    assert refused.value.reason is Reason.CREDENTIAL_REVOKED
    assert replica.record(credentials.session_id) is None


def test_a_key_that_is_replaced_right_before_the_commit_signs_nothing(
    replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient]
) -> None:
    crossed, etcd = interrupted
    before = replica.login()
    etcd.before_commit = replica.replace_signing_key
    second = crossed.login()
    assert _kid(second) != _kid(before)
    etcd.before_commit = replica.replace_signing_key
    assert _kid(crossed.refresh(before.refresh_token)) != _kid(second)


def test_without_a_signing_key_a_login_waits_and_is_then_refused(replica: Replica) -> None:
    key = replica.layout.signing
    replica.etcd.commit([], [Delete(key)])
    began = time.monotonic()
    with pytest.raises(Refusal) as refused:
        replica.login()
    assert refused.value.reason is Reason.MESH_NOT_READY
    assert 1.5 < time.monotonic() - began < 6


def test_an_opaque_session_needs_no_signing_key(replica: Replica) -> None:
    replica.etcd.commit([], [Delete(replica.layout.signing)])
    assert replica.login(kind=auth_pb2.CREDENTIAL_KIND_SESSION).session_token


def test_a_token_that_is_too_large_is_not_issued_and_its_claims_are_named(replica: Replica) -> None:
    scopes = [f"shop.department-{number}.buy" for number in range(200)]
    replica.accounts.create_user("carol", ALICE_PASSWORD, scopes=scopes, audiences=["storefront"])
    with pytest.raises(FailedPrecondition, match=r"3,072 is the maximum; its largest claims: scope \(4,691 bytes"):
        replica.login(lambda: replica.accounts.authenticate_user("carol", ALICE_PASSWORD))
    assert replica.etcd.count(replica.layout.sessions) == 0
    fewer = replica.login(lambda: replica.accounts.authenticate_user("carol", ALICE_PASSWORD), scopes=scopes[:10])
    assert len(fewer.access_token) <= 3072


def test_a_token_never_outlives_its_session(replica: Replica, clock: Clock) -> None:
    short = replica.another(session_lifetime=60.0)
    credentials = short.login()
    assert claims_of(credentials.access_token)["exp"] <= seconds(credentials.session_expires_at)


def _newer(replica: Replica, record: store_pb2.SessionRecord) -> bytes:
    record.format = 99
    return record.SerializeToString()


def _foreign(replica: Replica, record: store_pb2.SessionRecord) -> bytes:
    return b"\xff" + record.SerializeToString()


def _anothers(replica: Replica, record: store_pb2.SessionRecord) -> bytes:
    record.session_id = replica.login().session_id
    return record.SerializeToString()


@pytest.mark.parametrize("broken", [_newer, _foreign, _anothers])
def test_a_session_whose_record_cannot_be_read_is_neither_used_nor_ended(
    replica: Replica, broken: Callable[[Replica, store_pb2.SessionRecord], bytes]
) -> None:
    """A newer replica may have written it, and will continue it when this replica is replaced."""
    credentials = replica.login()
    record = replica.record(credentials.session_id)
    assert record is not None
    key = replica.layout.session(credentials.session_id)
    value = broken(replica, record)
    replica.etcd.commit([], [Put(key, value)])
    with pytest.raises(Refusal) as refused:
        replica.refresh(credentials.refresh_token)
    assert refused.value.reason is Reason.MESH_NOT_READY
    assert replica.etcd.read(key).values[key].value == value
    assert replica.epoch(session_scope(credentials.session_id)) == 0


@pytest.mark.parametrize("key_of", [lambda layout: layout.user("alice"), lambda layout: layout.signing])
def test_an_account_or_key_of_a_newer_format_issues_nothing(replica: Replica, key_of: Callable[[Layout], str]) -> None:
    credentials = replica.login()
    replica.etcd.commit([], [Put(key_of(replica.layout), b"\x08\x63")])
    with pytest.raises(Refusal) as refused:
        replica.refresh(credentials.refresh_token)
    assert refused.value.reason is Reason.MESH_NOT_READY
    assert replica.record(credentials.session_id) is not None


def _kid(credentials: auth_pb2.Credentials) -> str:
    kid: str = jwt.get_unverified_header(credentials.access_token)["kid"]
    return kid
