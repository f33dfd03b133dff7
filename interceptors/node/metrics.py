"""A node's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from interceptors.node.mesh_node import MeshNode

__all__ = ["NodeCollector"]


class NodeCollector(Collector):
    """Reads a node's figures for each scrape."""

    def __init__(self, node: MeshNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        """Yields every metric of the node as of now."""
        node = self._node
        age = node.freshness_age()
        yield _gauge(
            "credmesh_freshness_age_seconds",
            "The node's freshness: the age of the newest proof that its bundle is complete; +Inf before the first.",
            float("inf") if age is None else age,
        )
        yield _gauge("credmesh_ready", "Whether the node has read its trust bundle.", float(node.ready))
        yield _gauge("credmesh_watch_connected", "Whether the watch on etcd is up.", float(node.connected))
        monitor = node.bundle.monitor
        yield _gauge(
            "credmesh_history_lost",
            "Whether etcd has lost a part of its history, and the auth service has not recovered from the loss yet.",
            float(bool(monitor.loss)),
        )
        yield _gauge(
            "credmesh_history_vouched",
            "Whether the auth service has vouched for etcd's history since this node last had to require it.",
            float(monitor.vouched),
        )
        yield _gauge("credmesh_bundle_revision", "The etcd revision that the node has applied.", node.bundle.revision)
        yield _gauge("credmesh_verification_keys", "Verification keys held.", len(node.bundle.keys))
        yield _gauge("credmesh_epochs", "Revocation epochs held.", len(node.bundle.epochs))
        yield _gauge("credmesh_cached_credentials", "Verified credentials in the cache.", node.verifier.cached)
        yield _gauge("credmesh_open_streams", "Streams open under a credential.", len(node.streams))
        accepted = CounterMetricFamily("credmesh_calls_accepted", "Calls accepted.", labels=["method"])
        refused = CounterMetricFamily("credmesh_calls_refused", "Calls refused.", labels=["method", "reason"])
        ended = CounterMetricFamily("credmesh_streams_ended", "Open streams ended.", labels=["method", "reason"])
        for method, counts in list(node.call_counts.items()):
            accepted.add_metric([method], counts.accepted)
            for reason, count in list(counts.refused.items()):
                refused.add_metric([method, reason], count)
            for reason, count in list(counts.ended.items()):
                ended.add_metric([method, reason], count)
        yield from (accepted, refused, ended)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
