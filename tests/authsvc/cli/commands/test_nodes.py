"""`credmesh nodes`, with a real auth replica."""

from __future__ import annotations

from tests.authsvc.cli.conftest import Command


def test_nodes_lists_the_replica_and_probes_it(command: Command) -> None:
    (node,) = command.json("nodes", "--no-probe")["nodes"]
    assert node["service"] == "auth"
    assert not node["acknowledged"]
    assert "freshnessAge" not in node
    (probed,) = command.json("nodes", "--probe")["nodes"]
    assert probed["acknowledged"]
    assert int(probed["appliedRevision"]) > 0
    assert probed["longestFreshness"] == "10s"
    assert 0 <= float(probed["freshnessAge"].removesuffix("s")) < 10
    titles, row = command.ok("nodes").splitlines()
    assert titles.split()[-3:] == ["ANSWERED", "FRESHNESS", "REVISION"]
    assert row.split()[0] == node["nodeId"]
