"""An epoch outlasts every credential that it revokes, whichever replica issued it under whichever lifetime."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from authsvc.revocation.lifetimes import IssuingLifetime, read_lifetimes_in_force
from authsvc.settings import AuthSettings
from authsvc.store.shared_leases import LEEWAY_SECONDS
from credmesh.auth.v1 import auth_pb2
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put, Unchanged
from interceptors.scopes import session_scope, subject_scope
from interceptors.tokens.opaque_token import OpaqueToken
from tests.support.replica import InterruptedEtcdClient, Replica, claims_of

LONG = 100_000.0
"""Seconds; longer than a session may live, so that it decides for every scope."""


def _seconds(replica: Replica, scope: str) -> int:
    """How long a scope's epoch lives from now on, in seconds."""
    key = replica.layout.epoch(scope)
    return replica.etcd.keep_alive(replica.etcd.read(key).values[key].lease)


def _tokens(replica: Replica) -> str:
    return replica.login().session_id


def _refreshed(replica: Replica) -> str:
    credentials = replica.another(token_lifetime=60.0).login()
    assert _longest(replica) < LONG
    replica.refresh(credentials.refresh_token)
    return credentials.session_id


def _without_a_session(replica: Replica) -> str:
    _, secret = replica.accounts.create_client("robot", scopes=["shop.read"], audiences=["storefront"])
    replica.login(lambda: replica.accounts.authenticate_client("robot", secret))
    return "none"


def _resolved(replica: Replica) -> str:
    login = replica.another(resolve_ttl=60.0).login(kind=auth_pb2.CREDENTIAL_KIND_SESSION)
    assert _longest(replica) < LONG
    token = OpaqueToken.parse(login.session_token)
    request = auth_pb2.ResolveSessionRequest(session_id=token.session_id, secret_sha256=token.secret_sha256)
    assert not replica.sessions.resolve(request).refusal
    return login.session_id


def _longest(replica: Replica) -> int:
    return read_lifetimes_in_force(replica.etcd, replica.layout).longest


@pytest.mark.parametrize("issue", [_tokens, _refreshed, _without_a_session, _resolved])
def test_an_epoch_outlasts_the_credentials_of_a_longer_lifetime(
    replica: Replica, issue: Callable[[Replica], str]
) -> None:
    resolves = issue is _resolved
    longer = replica.another(**{"resolve_ttl" if resolves else "token_lifetime": LONG})
    session_id = issue(longer)
    for scope in (session_scope(session_id), subject_scope("alice")):
        replica.revoke(scope)
        assert _seconds(replica, scope) >= LONG + LEEWAY_SECONDS


def test_a_lowered_lifetime_counts_until_its_last_credential_has_expired(
    replica: Replica, settings: AuthSettings
) -> None:
    """A kicked session must not come back because a setting was changed."""
    with EtcdClient(settings.mesh.etcd) as etcd:
        before = Replica(etcd, replica.another(token_lifetime=3600.0).settings, replica.passwords, replica.clock)
        credentials = before.login()
    claims = claims_of(credentials.access_token)
    with EtcdClient(settings.mesh.etcd) as etcd:
        restarted = Replica(etcd, settings, replica.passwords, replica.clock)
        restarted.revoke(session_scope(credentials.session_id))
        ends_at = replica.clock() + _seconds(restarted, session_scope(credentials.session_id))
    assert ends_at >= claims["exp"] + LEEWAY_SECONDS - 1
    # No replica issues under it any more, so its key expires soon after the last token.
    key = f"{replica.layout.lifetimes}3600"
    lease = replica.etcd.read(key).values[key].lease
    assert 3600 + LEEWAY_SECONDS <= replica.etcd.keep_alive(lease) <= 3600 + 2 * LEEWAY_SECONDS
    replica.etcd.revoke_lease(lease)
    replica.revoke(session_scope("another"))
    assert _seconds(replica, session_scope("another")) < 3600


def test_a_longer_lifetime_that_begins_during_a_revocation_is_counted(
    replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient]
) -> None:
    """A credential issued between the revocation's read and its commit is revoked, for as long as it lives."""
    revoking, etcd = interrupted
    longer = replica.another(token_lifetime=LONG)
    issued: list[auth_pb2.Credentials] = []
    etcd.before_commit = lambda: issued.append(longer.login())
    revision = revoking.revoke(subject_scope("alice"))
    assert claims_of(issued[0].access_token)["epoch"] < revision == replica.epoch(subject_scope("alice"))
    assert _seconds(replica, subject_scope("alice")) >= LONG + LEEWAY_SECONDS


def test_a_failed_extra_condition_is_told_from_a_lifetime_that_began(
    replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient]
) -> None:
    revoking, etcd = interrupted
    etcd.before_commit = replica.another(token_lifetime=LONG).login
    never = [Unchanged(replica.layout.user("alice"), 1)]
    assert revoking.revocation.revoke(session_scope("x"), actor="", reason="", extra_conditions=never) is None
    assert replica.epoch(session_scope("x")) == 0


def test_a_revocation_gives_up_if_a_lifetime_begins_during_each_attempt(
    replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient]
) -> None:
    revoking, etcd = interrupted

    def disturb() -> None:
        replica.etcd.commit([], [Put(replica.layout.lifetimes, b"")])
        etcd.before_commit = disturb

    etcd.before_commit = disturb
    with pytest.raises(EtcdUnavailable, match="nothing was revoked"):
        revoking.revoke(session_scope("x"))
    assert replica.epoch(session_scope("x")) == 0


def test_issuing_puts_a_lifetime_once_and_replicas_share_it(replica: Replica) -> None:
    replica.login()
    key = f"{replica.layout.lifetimes}{int(replica.settings.token_lifetime)}"
    before = replica.etcd.read(key, replica.layout.lifetimes).values
    assert set(before) == {key, replica.layout.lifetimes}
    credentials = replica.another().login()
    replica.refresh(credentials.refresh_token)
    assert replica.etcd.read(key, replica.layout.lifetimes).values == before


def test_a_lost_lifetime_is_in_force_again_before_anything_is_issued(replica: Replica) -> None:
    replica.login()
    key = f"{replica.layout.lifetimes}{int(replica.settings.token_lifetime)}"
    lost = replica.etcd.read(key).values[key]
    replica.etcd.revoke_lease(lost.lease)
    assert _longest(replica) == 0
    epoch = claims_of(replica.login().access_token)["epoch"]
    found = replica.etcd.read(key).values[key]
    assert lost.mod_revision < found.mod_revision <= epoch
    # Without the lease the key would never expire, and under another lease it could expire too early.
    replica.etcd.commit([], [Put(key, b"")])
    replica.login()
    assert replica.etcd.read(key).values[key].lease == found.lease


def test_nothing_is_issued_under_a_lifetime_that_is_deleted_each_time(
    replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient]
) -> None:
    _, etcd = interrupted
    key = f"{replica.layout.lifetimes}77777"
    lifetime = IssuingLifetime(etcd, replica.layout, 77777)

    def disturb() -> None:
        replica.etcd.commit([], [Put(key, b"foreign")])
        etcd.before_commit = disturb

    etcd.before_commit = disturb
    with pytest.raises(EtcdUnavailable, match="lifetimes/77777 was put"):
        lifetime.read_in_force(replica.layout.signing)


@pytest.mark.parametrize("name", ["999999", "x", "1e6", "-5", "²", "9" * 5000])
def test_a_foreign_key_among_the_lifetimes_keeps_no_epoch_forever(
    replica: Replica, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    lease = 0 if name == "999999" else replica.etcd.grant(60)
    key = f"{replica.layout.lifetimes}{name}"
    replica.etcd.commit([], [Put(key, b"", lease)])
    assert _longest(replica) == 0
    assert f"{key} is ignored" in caplog.text
