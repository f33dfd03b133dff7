"""Guards of a history alone, without the rest of a replica."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from authsvc.coordination.acknowledgements import Board
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from tests.support.guards import Make, guards


@pytest.fixture
def board(etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout) -> Iterator[Board]:
    """The registrations."""
    with Board(etcd_settings, etcd_client, layout) as board:
        yield board


@pytest.fixture
def replica(etcd_settings: EtcdSettings, etcd_client: EtcdClient, board: Board) -> Iterator[Make]:
    """Makes guards."""
    with ExitStack() as stack:
        yield guards(etcd_settings, etcd_client, board, stack)
