"""Serving the Prometheus metrics of a node over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server

from interceptors.node.mesh_node import MeshNode
from interceptors.node.metrics import NodeCollector
from interceptors.serving.listening import ListenError
from interceptors.settings import ServerSettings, split_address

__all__ = ["serve_metrics"]

_log: Final = logging.getLogger("credmesh.serving")


def serve_metrics(node: MeshNode, settings: ServerSettings) -> Callable[[], None]:
    """Serves /metrics on the address of CREDMESH_METRICS, if it is set. Returns a function that stops serving.

    Raises ListenError if the address cannot be used.
    """
    if not settings.metrics:
        return lambda: None
    host, port = split_address(settings.metrics, "CREDMESH_METRICS")
    registry = CollectorRegistry()
    registry.register(NodeCollector(node))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ListenError(
            f"cannot serve metrics on {settings.metrics}: {error.strerror}; set CREDMESH_METRICS to another host:port"
        ) from None
    _log.info("serving metrics at http://%s/metrics", settings.metrics)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return stop
