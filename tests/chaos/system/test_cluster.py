"""The test bed's etcd cluster: an operator's commands while a member is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from chaos.system.cluster import Cluster
from chaos.system.links import NetworkLinks
from interceptors.etcd.client import EtcdClient, Put
from localmesh.etcd.binary import find_etcd, version_of
from localmesh.etcd.process import EtcdProcess


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with NetworkLinks(tmp_path / "network.log") as links:
        one = Cluster(tmp_path / "etcd", tmp_path, links)
        try:
            one.start()
            yield one
        finally:
            for part in one.parts.values():
                part.kill()


def test_the_leader_cannot_move_to_a_member_that_is_down(cluster: Cluster) -> None:
    """The error is an RpcError, so that the fault is skipped and the run goes on."""
    away = next(name for name in cluster.parts if name != cluster.leader())
    cluster.parts[away].kill()
    with pytest.raises(grpc.RpcError):
        cluster.move_leader(away)


def test_a_member_that_answers_with_a_lower_revision_is_noticed(
    cluster: Cluster, own_etcd: EtcdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EtcdClient(cluster.settings("/chaos/")) as client:
        client.commit([], [Put("/chaos/a", b"")])
    assert cluster.disagreement() == ""
    addresses = {name: cluster.address(name) for name in cluster.parts} | {"etcd-3": own_etcd.endpoint}
    monkeypatch.setattr(cluster, "address", addresses.__getitem__)
    assert cluster.disagreement() == "etcd-3 is at revision 1, and etcd-2 had been at 2"


def test_the_version_of_etcd_is_what_the_members_run(cluster: Cluster) -> None:
    assert cluster.version() == ".".join(map(str, version_of(find_etcd())))
