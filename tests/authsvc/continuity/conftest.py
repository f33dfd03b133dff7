"""Fixtures for continuity guards without the rest of their replicas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from authsvc.coordination.acknowledgements import AckTracker
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from tests.support.guards import Make, guards


@pytest.fixture
def ack_tracker(etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout) -> Iterator[AckTracker]:
    """Follows the registrations."""
    with AckTracker(etcd_settings, etcd_client, layout) as ack_tracker:
        yield ack_tracker


@pytest.fixture
def replica(etcd_settings: EtcdSettings, etcd_client: EtcdClient, ack_tracker: AckTracker) -> Iterator[Make]:
    """Makes guards."""
    with ExitStack() as stack:
        yield guards(etcd_settings, etcd_client, ack_tracker, stack)
