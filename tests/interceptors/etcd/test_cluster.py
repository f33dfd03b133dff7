"""A cluster that loses members."""

from __future__ import annotations

from pathlib import Path

import pytest

from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put, Unchanged
from interceptors.settings import EtcdSettings
from tests.support.etcd.cluster import cluster
from tests.support.etcd.follower import following
from tests.support.waiting import wait_until


def test_a_lost_minority_does_no_harm_and_a_lost_majority_is_an_error(tmp_path: Path) -> None:
    with cluster(tmp_path) as members:
        endpoints = tuple(member.endpoint for member in members)
        settings = EtcdSettings(endpoints=endpoints, prefix="/test/")
        with EtcdClient(settings) as client, following(settings) as follower:
            assert client.commit([Unchanged("/test/a", 0)], [Put("/test/a", b"1")]) is not None
            wait_until(lambda: "/test/a" in follower.values)
            # The member that both the client and the mirror use.
            members[0].kill()
            assert client.read("/test/a").values["/test/a"].value == b"1"
            # The cluster may have to elect a new leader first, and the client does not repeat a commit.
            wait_until(lambda: _commits(client, "/test/b"), 20, "a commit by the majority")
            wait_until(lambda: "/test/b" in follower.values, 20, "the watch to go on at another member")
            assert len(follower.snapshots) == 1
            # The member that they use now loses its quorum. It runs on, but must end the watch and answer no read.
            members[2].kill()
            wait_until(lambda: not follower.mirror.connected, 20, "the survivor to end its watch")
            with pytest.raises(EtcdUnavailable, match="does not answer"):
                client.read("/test/a")
            members[2].start()
            wait_until(lambda: _commits(client, "/test/c"), 20, "a commit after the quorum is back")
            wait_until(lambda: "/test/c" in follower.values, 20, "the mirror after the quorum is back")
            assert set(follower.values) == {"/test/a", "/test/b", "/test/c"}
            assert len(follower.snapshots) == 1


def _commits(client: EtcdClient, key: str) -> bool:
    try:
        client.commit([], [Put(key, b"1")])
    except EtcdUnavailable:
        return False
    return True
