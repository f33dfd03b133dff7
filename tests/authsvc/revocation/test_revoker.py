"""Revocations, and the leases that keep epochs as long as they are needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from authsvc.store.shared_leases import LEEWAY_SECONDS, SharedLeases
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, KeyValue, Put, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import EVERYONE, client_scope, session_scope, subject_scope
from interceptors.settings import EtcdSettings
from tests.support.replica import Clock, Replica
from tests.support.waiting import free_port


def _stored(replica: Replica, scope: str) -> KeyValue:
    key = replica.layout.epoch(scope)
    return replica.etcd.read(key).values[key]


def _beacon(replica: Replica) -> int:
    stored = replica.etcd.read(replica.layout.beacon).values.get(replica.layout.beacon)
    return 0 if stored is None else stored.mod_revision


def test_with_etcd_away_no_call_waits_for_all_earlier_ones_that_need_the_lease(etcd_settings: EtcdSettings) -> None:
    away = replace(etcd_settings, endpoints=(f"127.0.0.1:{free_port()}",), timeout=0.5)
    with EtcdClient(away) as etcd, ThreadPoolExecutor(12) as pool:
        leases = SharedLeases(etcd, Layout(away.prefix), 660.0, clock=None)
        failures = [asking.exception(30) for asking in [pool.submit(leases.lease) for _ in range(12)]]
    assert {type(failure) for failure in failures} == {EtcdUnavailable}
    asked = [failure for failure in failures if f"etcd at {away.endpoints[0]}" in str(failure)]
    waited = [failure for failure in failures if "asked for the same lease before" in str(failure)]
    # The lock was free once in each timeout. Callers that got it asked etcd; no caller waited for two timeouts.
    assert 1 <= len(asked) <= 3
    assert len(asked) + len(waited) == 12


def test_a_revocation_is_an_epoch_at_its_own_revision_and_moves_the_beacon(replica: Replica) -> None:
    revision = replica.revocation.revoke(subject_scope("alice"), actor="operator", reason="left the company")
    stored = _stored(replica, subject_scope("alice"))
    assert stored.mod_revision == revision == _beacon(replica)
    epoch = mesh_pb2.Epoch.FromString(stored.value)
    assert (epoch.format, epoch.actor, epoch.reason) == (1, "operator", "left the company")


def test_each_revocation_moves_the_epoch_on(replica: Replica) -> None:
    assert replica.revoke(EVERYONE) < replica.revoke(EVERYONE) == replica.epoch(EVERYONE)


def test_revoking_a_session_deletes_its_record_in_the_same_commit(replica: Replica) -> None:
    credentials = replica.login()
    replica.revoke(session_scope(credentials.session_id))
    assert replica.record(credentials.session_id) is None


def test_nothing_changes_if_an_extra_condition_does_not_hold(replica: Replica) -> None:
    credentials = replica.login()
    before = replica.etcd.read(replica.layout.signing).revision
    revision = replica.revocation.revoke(
        session_scope(credentials.session_id),
        actor="test",
        reason="test",
        extra_conditions=[Unchanged(replica.layout.user("alice"), 1)],
        extra_operations=[Put(replica.layout.user("mallory"), b"")],
    )
    assert revision is None
    assert replica.etcd.read(replica.layout.signing).revision == before
    assert replica.record(credentials.session_id) is not None


def test_extra_operations_are_part_of_the_commit(replica: Replica) -> None:
    key = replica.layout.user("bob")
    revision = replica.revocation.revoke(
        EVERYONE, actor="test", reason="test", extra_conditions=[Unchanged(key, 0)], extra_operations=[Put(key, b"b")]
    )
    assert replica.etcd.read(key).values[key].mod_revision == revision


def test_several_scopes_are_one_commit(replica: Replica) -> None:
    scopes = [subject_scope("alice"), client_scope("robot"), subject_scope("alice")]
    revision = replica.revocation.revoke_all(scopes, actor="test", reason="test")
    assert {replica.epoch(scope) for scope in scopes} == {revision}


def test_an_epoch_lives_as_long_as_any_credential_that_it_revokes(replica: Replica) -> None:
    """A revoked session has only tokens left, since its record is deleted. Another scope may cover whole sessions."""
    replica.revoke(session_scope("x"))
    replica.revoke(subject_scope("alice"))
    settings = replica.settings
    tokens = replica.etcd.keep_alive(_stored(replica, session_scope("x")).lease)
    sessions = replica.etcd.keep_alive(_stored(replica, subject_scope("alice")).lease)
    assert settings.token_lifetime + LEEWAY_SECONDS <= tokens <= 2 * (settings.token_lifetime + LEEWAY_SECONDS)
    assert settings.session_lifetime + LEEWAY_SECONDS <= sessions <= 1.1 * (settings.session_lifetime + LEEWAY_SECONDS)


def test_an_epoch_outlives_the_sessions_that_nodes_have_cached(replica: Replica) -> None:
    slow = replica.another(token_lifetime=60.0, resolve_ttl=3600.0)
    slow.revoke(session_scope("x"))
    assert slow.etcd.keep_alive(_stored(replica, session_scope("x")).lease) >= 3600 + LEEWAY_SECONDS


def test_a_thousand_epochs_share_a_lease(replica: Replica, clock: Clock) -> None:
    """etcd expires leases one by one and slowly."""
    first = replica.another()
    second = replica.another()
    leases = set()
    for number in range(20):
        (first, second)[number % 2].revoke(session_scope(f"s{number}"))
        leases.add(_stored(replica, session_scope(f"s{number}")).lease)
    # Two, if the interval ends in between.
    assert 1 <= len(leases) <= 2
    clock.ahead += 3600
    first.revoke(session_scope("later"))
    assert _stored(replica, session_scope("later")).lease not in leases


def test_replicas_whose_clocks_differ_share_fewer_leases_and_lose_nothing(replica: Replica) -> None:
    ahead = Clock()
    ahead.ahead = 86_400.0
    other = Replica(replica.etcd, replica.settings, replica.passwords, ahead)
    other.revoke(session_scope("x"))
    replica.revoke(session_scope("y"))
    x, y = (_stored(replica, session_scope(name)).lease for name in "xy")
    assert x != y
    assert (
        min(replica.etcd.keep_alive(x), replica.etcd.keep_alive(y)) >= replica.settings.token_lifetime + LEEWAY_SECONDS
    )


def test_a_lease_that_was_revoked_by_hand_is_replaced(replica: Replica) -> None:
    replica.revoke(session_scope("x"))
    lost = _stored(replica, session_scope("x")).lease
    replica.etcd.revoke_lease(lost)
    assert replica.epoch(session_scope("x")) == 0
    assert replica.revoke(session_scope("y")) == replica.epoch(session_scope("y"))


def test_meshes_on_one_etcd_do_not_share_leases(replica: Replica) -> None:
    """Otherwise the settings of one mesh would decide how long the epochs of another live."""
    here = SharedLeases(replica.etcd, replica.layout, 1000, clock=replica.clock).lease()
    longer = SharedLeases(replica.etcd, replica.layout, 2000, clock=replica.clock).lease()
    layout = type(replica.layout)(replica.layout.prefix + "other/")
    there = SharedLeases(replica.etcd, layout, 1000, clock=replica.clock).lease()
    assert len({here, longer, there}) == 3


@pytest.mark.parametrize("strange", ["a/b", "../x", "ü €", "%2F", "a" * 256, "🙂" * 256])
def test_a_scope_with_strange_characters_stays_below_its_prefix(replica: Replica, strange: str) -> None:
    replica.revoke(session_scope(strange))
    replica.revoke(subject_scope(strange))
    found = replica.etcd.read_prefix(replica.layout.prefix).values
    assert replica.layout.epoch(session_scope(strange)) in found
    assert all(key.startswith(replica.layout.prefix) for key in found)
