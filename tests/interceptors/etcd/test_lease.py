"""Leases, and until when their owner may rely on them."""

from __future__ import annotations

import time

import pytest

from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put
from interceptors.etcd.lease import RenewableLease
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.waiting import wait_until


def test_an_unrenewed_lease_ends_with_its_keys_after_its_owner_gave_it_up(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    key = etcd_settings.prefix + "key"
    lease = RenewableLease(etcd_client, 1)
    etcd_client.commit([], [Put(key, b"", lease.id)])
    assert lease.alive(time.monotonic())

    def gone() -> bool:
        exists = bool(etcd_client.read(key).values)
        # The owner must have given the lease up before the key vanishes from etcd.
        assert exists or not lease.alive(time.monotonic())
        return not exists

    wait_until(gone, what="the lease to run out")
    assert not lease.renew()
    assert not lease.alive(time.monotonic())


def test_a_renewed_lease_outlives_its_first_term(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    key = etcd_settings.prefix + "key"
    lease = RenewableLease(etcd_client, 2)
    first_end = time.monotonic() + 2
    etcd_client.commit([], [Put(key, b"", lease.id)])
    assert not lease.alive(first_end)

    def past_the_first_end() -> bool:
        assert lease.renew()
        return time.monotonic() > first_end + 0.5

    wait_until(past_the_first_end)
    assert lease.alive(time.monotonic())
    assert key in etcd_client.read(key).values


def test_a_revoked_lease_is_not_alive_from_then_on(etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> None:
    lease = RenewableLease(etcd_client, 60)
    etcd_client.commit([], [Put(etcd_settings.prefix + "key", b"", lease.id)])
    lease.revoke()
    assert not lease.alive(time.monotonic())
    assert etcd_client.count(etcd_settings.prefix) == 0
    assert not lease.renew()
    lease.revoke()


def test_a_lease_that_cannot_be_renewed_is_alive_for_its_ttl_only(own_etcd: EtcdProcess) -> None:
    with EtcdClient(own_etcd.settings(timeout=0.2)) as client:
        before = time.monotonic()
        lease = RenewableLease(client, 30)
        after = time.monotonic()
        own_etcd.kill()
        with pytest.raises(EtcdUnavailable):
            lease.renew()
        # Counted from before the request was sent: etcd received it later, so it ends the lease later.
        assert lease.alive(before + 29.9)
        assert not lease.alive(after + 30)


def test_no_lease_is_made_without_etcd(own_etcd: EtcdProcess) -> None:
    own_etcd.kill()
    with EtcdClient(own_etcd.settings(timeout=0.2)) as client, pytest.raises(EtcdUnavailable):
        RenewableLease(client, 10)
