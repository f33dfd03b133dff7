"""The HTTP face of the auth service: what verifiers, Prometheus and Kubernetes ask for. Nothing here is secret.

    /.well-known/jwks.json              the verification keys (RFC 7517), for any JWT library
    /.well-known/openid-configuration   where they are and what they sign (OpenID Connect Discovery 1.0)
    /metrics                            Prometheus
    /healthz                            200 while the process lives
    /readyz                             200 once it has read the mesh's state and holds a key; 503 before

Public it may be, but whoever can change a key set on its way can sign tokens: let TLS end in front of this port.
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
from interceptors.serving.listening import split_address
from interceptors.tokens.verification_key import ALGORITHMS

__all__ = ["HttpFace", "application"]

_log: Final = logging.getLogger("credmesh.http")

KEY_SET_PATH: Final = "/.well-known/jwks.json"
DISCOVERY_PATH: Final = "/.well-known/openid-configuration"

# A key verifies before it signs, but nobody outside the mesh acknowledges that it holds it: a short life lets most of
# them hear of it in time (they ask again about a kid that they do not know), and of a revoked key within a minute.
_KEY_SET_AGE: Final = 60
_DISCOVERY_AGE: Final = 3600
_RETRY_AFTER: Final = "2"


class HttpFace:
    """Serves `application` in a thread of its own, beside gRPC.

    It listens as soon as it is made, so that a port that is taken is known at once; `start` begins to answer.
    """

    def __init__(self, node: MeshNode, listen: str) -> None:
        self._socket = _listen(listen)
        # Uvicorn's own logging would write past our format, and its signal handlers belong to the gRPC server.
        config = uvicorn.Config(
            application(node),
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
        """Where it listens; the one that was found free, if port 0 was asked for."""
        port: int = self._socket.getsockname()[1]
        return port

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()
        _log.info("http listens", extra={"port": self.port})

    def stop(self) -> None:
        """Answers what was asked, and ends."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


def application(node: MeshNode) -> Starlette:
    """The ASGI application. It only reads what the node already holds, so no request waits for anything."""
    issuer = node.settings.issuer
    discovery = _discovery(issuer)
    registry = CollectorRegistry()
    registry.register(_Everything(node))

    async def keys(request: Request) -> Response:
        if not node.bundle.keys:
            return _not_ready("no signing key has been read yet")
        return _cached(request, {"keys": key_set(node.bundle.keys.values())}, _KEY_SET_AGE)

    async def openid_configuration(request: Request) -> Response:
        return _cached(request, discovery, _DISCOVERY_AGE)

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
    # Credentials are had over gRPC, so there is no authorization, token or userinfo endpoint to name, and no ID token
    # is issued. The algorithms are those of the access tokens: what verifiers look here for.
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
    tag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    headers = {"cache-control": f"public, max-age={seconds}", "etag": tag, "access-control-allow-origin": "*"}
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def _not_ready(why: str) -> Response:
    return PlainTextResponse(
        f"not ready: {why}\n", status_code=503, headers={"retry-after": _RETRY_AFTER, "cache-control": "no-store"}
    )


class _Everything(Collector):
    """The process's own figures, and the node's."""

    def __init__(self, node: MeshNode) -> None:
        self._node = NodeCollector(node)

    def collect(self) -> Iterator[Metric]:
        yield from REGISTRY.collect()
        yield from self._node.collect()

    def describe(self) -> list[Metric]:
        return []  # or the registry would collect everything just to learn the names


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
            f"cannot listen for HTTP on {address}: {error.strerror or error}; stop what uses it, or set "
            "CREDMESH_HTTP_LISTEN to another host:port"
        ) from None
    return listener
