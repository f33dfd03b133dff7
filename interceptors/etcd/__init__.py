"""Talking to etcd: requests, leases, mirrors of a prefix, and where things lie."""

from interceptors.etcd.client import (
    Compacted,
    CreatedAt,
    Delete,
    EtcdClient,
    EtcdRefused,
    EtcdUnavailable,
    KeyValue,
    LeaseNotFound,
    Put,
    Snapshot,
    Unchanged,
)
from interceptors.etcd.layout import Layout
from interceptors.etcd.lease import KeptLease
from interceptors.etcd.mirror import Event, Mirror

__all__ = [
    "Compacted",
    "CreatedAt",
    "Delete",
    "EtcdClient",
    "EtcdRefused",
    "EtcdUnavailable",
    "Event",
    "KeptLease",
    "KeyValue",
    "Layout",
    "LeaseNotFound",
    "Mirror",
    "Put",
    "Snapshot",
    "Unchanged",
]
