"""Reading the signing keys while etcd changes between the requests."""

from __future__ import annotations

from typing import Any

import pytest

from authsvc.keys.snapshot import read_key_snapshot
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, RevisionNotReached, Snapshot
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings


class RestoringEtcdClient(EtcdClient):
    """A client whose etcd is restored from a backup, to a lower revision, `times` times after the first request."""

    def __init__(self, settings: EtcdSettings, *, times: int) -> None:
        super().__init__(settings)
        self.left = times

    def read_prefix(self, prefix: str, **options: Any) -> Snapshot:
        if options.get("revision") and self.left:
            self.left -= 1
            raise RevisionNotReached("etcdserver: mvcc: required revision is a future revision")
        return super().read_prefix(prefix, **options)


def test_keys_are_read_again_if_etcd_was_restored_between_the_requests(
    etcd_settings: EtcdSettings, layout: Layout
) -> None:
    with RestoringEtcdClient(etcd_settings, times=1) as etcd:
        assert read_key_snapshot(etcd, layout).records == {}


def test_an_etcd_that_is_restored_each_time_is_unavailable(etcd_settings: EtcdSettings, layout: Layout) -> None:
    with RestoringEtcdClient(etcd_settings, times=100) as etcd, pytest.raises(EtcdUnavailable, match="restored"):
        read_key_snapshot(etcd, layout)
