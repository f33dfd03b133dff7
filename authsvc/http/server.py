"""The HTTP endpoints of the auth service, for other verifiers, Prometheus and Kubernetes. All of them are public.

    /.well-known/jwks.json              the verification keys (RFC 7517), for any JWT library
    /.well-known/openid-configuration   issuer, location of the keys, algorithms (OpenID Connect Discovery 1.0)
    /metrics                            Prometheus
    /healthz                            200 while the process lives
    /readyz                             200 once the node has read the mesh and has a verification key; 503 before

Terminate TLS in front of this port: an attacker who can change a key set in transit can forge tokens.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from authsvc.keys.jwks import key_set
from interceptors.errors import CredmeshError
from interceptors.node.mesh_node import MeshNode
from interceptors.node.metrics import NodeCollector
from interceptors.settings import split_address
from interceptors.tokens.token_rules import ALGORITHMS

__all__ = ["HttpServer", "http_application"]

_log: Final = logging.getLogger("credmesh.http")

KEY_SET_PATH: Final = "/.well-known/jwks.json"
DISCOVERY_PATH: Final = "/.well-known/openid-configuration"

# Verifiers outside the mesh do not acknowledge a PREPARED key. With a short cache lifetime most of them have a new key
# before it signs (the others fetch the key set when they see an unknown kid), and drop a revoked key within a minute.
_KEY_SET_MAX_AGE_SECONDS: Final = 60
_DISCOVERY_MAX_AGE_SECONDS: Final = 3600
_RETRY_AFTER_SECONDS: Final = "2"


class HttpServer:
    """Serves `http_application` in its own thread, beside gRPC.

    The constructor binds the port, so an occupied port is reported at once. `start` begins to answer requests.
    """

    def __init__(self, node: MeshNode, listen: str) -> None:
        self._socket = _listen(listen)
        # Uvicorn's own logging would bypass the process's log format. Signals are handled by the gRPC server.
        config = uvicorn.Config(
            http_application(node),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="credmesh-http", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on; for port 0 the port that the system chose."""
        port: int = self._socket.getsockname()[1]
        return port

    def start(self) -> None:
        """Begins to answer requests."""
        self._thread.start()
        _log.info("the HTTP server listens", extra={"port": self.port})

    def stop(self) -> None:
        """Answers the pending requests, and ends."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


def http_application(node: MeshNode) -> Starlette:
    """The ASGI application. It reads only the node's memory, so no request waits for etcd."""
    issuer = node.settings.issuer
    discovery = _discovery(issuer)
    registry = CollectorRegistry()
    registry.register(_ProcessAndNodeCollector(node))

    async def keys(request: Request) -> Response:
        if not node.bundle.keys:
            return _not_ready("no signing key has been read yet")
        return _cached(request, {"keys": key_set(node.bundle.keys.values())}, _KEY_SET_MAX_AGE_SECONDS)

    async def openid_configuration(request: Request) -> Response:
        return _cached(request, discovery, _DISCOVERY_MAX_AGE_SECONDS)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    async def healthz(request: Request) -> Response:
        del request
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        del request
        if not node.ready:
            return _not_ready("nothing has been read from etcd yet")
        return PlainTextResponse("ready\n") if node.bundle.keys else _not_ready("there is no signing key yet")

    return Starlette(
        routes=[
            Route(KEY_SET_PATH, keys),
            Route(DISCOVERY_PATH, openid_configuration),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )


def _discovery(issuer: str) -> dict[str, Any]:
    # Credentials are issued over gRPC, so there is no authorization, token or userinfo endpoint to name, and no ID
    # token is issued. The algorithms are those of the access tokens, for which verifiers look here.
    return {
        "issuer": issuer,
        "jwks_uri": issuer.rstrip("/") + KEY_SET_PATH,
        "response_types_supported": [],
        "grant_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": list(ALGORITHMS),
    }


def _cached(request: Request, content: Any, seconds: int) -> Response:
    response = JSONResponse(content)
    etag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    headers = {"cache-control": f"public, max-age={seconds}", "etag": etag, "access-control-allow-origin": "*"}
    known_tags = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in known_tags or "*" in known_tags:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def _not_ready(why: str) -> Response:
    return PlainTextResponse(
        f"not ready: {why}\n",
        status_code=503,
        headers={"retry-after": _RETRY_AFTER_SECONDS, "cache-control": "no-store"},
    )


class _ProcessAndNodeCollector(Collector):
    """Collects the metrics of the process and those of its node."""

    def __init__(self, node: MeshNode) -> None:
        self._node_collector = NodeCollector(node)

    def collect(self) -> Iterator[Metric]:
        yield from REGISTRY.collect()
        yield from self._node_collector.collect()

    def describe(self) -> list[Metric]:
        return []  # otherwise the registry would collect all metrics to learn their names


def _listen(address: str) -> socket.socket:
    host, port = split_address(address, "CREDMESH_HTTP_LISTEN")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CredmeshError(
            f"cannot listen for HTTP on {address}: {error.strerror or error}; stop the process that uses it, or set "
            "CREDMESH_HTTP_LISTEN to another host:port"
        ) from None
    return listener
