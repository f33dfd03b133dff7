"""The test bed's etcd: what an operator's commands do when a member is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from chaos.system.cluster import Cluster
from chaos.system.links import Wires
from interceptors.etcd.client import EtcdClient, Put
from localmesh.etcd.binary import find_etcd, version_of
from localmesh.etcd.process import EtcdProcess


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Wires(tmp_path / "network.log") as wires:
        one = Cluster(tmp_path / "etcd", tmp_path, wires)
        try:
            one.start()
            yield one
        finally:
            for part in one.parts.values():
                part.kill()


def test_a_leader_does_not_move_to_a_member_that_is_away(cluster: Cluster) -> None:
    """It fails as an RPC does, which lets the fault go, and does not end the run."""
    away = next(name for name in cluster.parts if name != cluster.leader())
    cluster.parts[away].kill()
    with pytest.raises(grpc.RpcError):
        cluster.move_leader(away)


def test_a_member_that_answers_by_less_than_another_had_is_noticed(
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
