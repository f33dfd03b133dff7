"""The auth replicas and services of a local mesh, and their environment variables."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2

from interceptors.settings import EtcdSettings
from localmesh.addresses import Addresses
from localmesh.certs import Certificates
from localmesh.processes.ports import HOST
from localmesh.processes.process import Process

__all__ = [
    "AUTH_REPLICAS",
    "INHERITED_VARIABLES",
    "SERVICES",
    "TLS_VARIABLES_OF_ETCD",
    "GrpcPart",
    "SharedSettings",
    "auth_parts",
    "mesh_environment",
    "service_parts",
]

AUTH_REPLICAS: Final = ("auth-1", "auth-2")
SERVICES: Final = ("storefront", "orders", "inventory")
TLS_VARIABLES_OF_ETCD: Final = ("ETCD_CA_FILE", "ETCD_CERT_FILE", "ETCD_KEY_FILE")

_DRAIN_SECONDS: Final = "3"
_HEALTH_TIMEOUT_SECONDS: Final = 2.0

INHERITED_VARIABLES: Final = frozenset({"CREDMESH_LOG_LEVEL", "CREDMESH_TOKEN_LIFETIME", "CREDMESH_ROTATION_INTERVAL"})
"""The only settings that the parts inherit from the terminal. All others are set here."""


@dataclass(frozen=True, slots=True)
class SharedSettings:
    """The settings that all parts of one mesh share.

    secrets     the folder of the clients' secrets: one file for each, named by the client's id
    watermarks  the folder of the auth replicas' watermarks, by which they find a loss
    """

    etcd: EtcdSettings
    addresses: Addresses
    certificates: Certificates
    kek_file: Path
    secrets: Path
    watermarks: Path
    logs: Path

    @property
    def issuer(self) -> str:
        """`iss` of the tokens: the URL where OpenID discovery finds the keys."""
        return f"http://{self.addresses.of('auth-1 http')}"

    @property
    def auth(self) -> str:
        """The addresses of the auth replicas, in the format of CREDMESH_AUTH."""
        return ",".join(self.addresses.of(name) for name in AUTH_REPLICAS)


class GrpcPart:
    """A process that serves gRPC, and reports by the health protocol whether it is ready. It implements `Part`."""

    def __init__(self, name: str, address: str, process: Process, ca_file: Path) -> None:
        self.name = name
        self.address = address
        self.log_file = process.log_file
        self._process = process
        self._ca_file = ca_file

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.alive

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process."""
        return self._process.exit_code

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid

    def start(self) -> None:
        """Starts the process."""
        self._process.start()

    def ready(self) -> bool:
        """Whether the health check answers SERVING."""
        host, _, port = self.address.rpartition(":")
        try:
            # gRPC waits for a second after a refused connection, so try to connect by TCP first.
            socket.create_connection((host, int(port)), timeout=_HEALTH_TIMEOUT_SECONDS).close()
        except OSError:
            return False
        roots = grpc.ssl_channel_credentials(self._ca_file.read_bytes())
        # The part is on this machine, which a proxy of the environment (`https_proxy`) does not reach.
        with grpc.secure_channel(self.address, roots, [("grpc.enable_http_proxy", 0)]) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer: health_pb2.HealthCheckResponse = check(
                    health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_SECONDS
                )
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def terminate(self) -> None:
        """Asks the process to drain and end."""
        self._process.terminate()

    def kill(self) -> None:
        """Kills the process."""
        self._process.kill()

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the process to end. Returns whether it has ended."""
        return self._process.wait(timeout)


def mesh_environment(shared: SharedSettings) -> dict[str, str]:
    """The environment variables that every service of this mesh needs, without its own name and addresses."""
    etcd = shared.etcd
    files = zip(TLS_VARIABLES_OF_ETCD, (etcd.ca_file, etcd.cert_file, etcd.key_file), strict=True)
    return {
        "ETCD_ENDPOINTS": ",".join(etcd.endpoints),
        **{variable: str(path.absolute()) for variable, path in files if path is not None},
        "CREDMESH_ETCD_PREFIX": etcd.prefix,
        "CREDMESH_ISSUER": shared.issuer,
        "CREDMESH_AUTH": shared.auth,
        "CREDMESH_CA_FILE": str(shared.certificates.ca_file),
        "CREDMESH_TLS_CERT_FILE": str(shared.certificates.cert_file),
        "CREDMESH_TLS_KEY_FILE": str(shared.certificates.key_file),
    }


def auth_parts(shared: SharedSettings) -> list[GrpcPart]:
    """The replicas of the auth service."""
    return [
        _part(
            shared,
            name,
            "authsvc",
            {
                "CREDMESH_SERVICE": "auth",
                "CREDMESH_KEK_FILE": str(shared.kek_file),
                "CREDMESH_HTTP_LISTEN": shared.addresses.of(f"{name} http"),
                "CREDMESH_MEMORY_FILE": str(shared.watermarks / f"{name}.json"),
            },
        )
        for name in AUTH_REPLICAS
    ]


def service_parts(shared: SharedSettings) -> list[GrpcPart]:
    """The sample services."""
    return [
        _part(
            shared,
            name,
            f"services.{name}",
            {
                "CREDMESH_SERVICE": name,
                "CREDMESH_METRICS": shared.addresses.of(f"{name} metrics"),
                "CREDMESH_CLIENT_ID": "services",
                "CREDMESH_CLIENT_SECRET_FILE": str(shared.secrets / "services"),
                "ORDERS_TARGET": shared.addresses.of("orders"),
                "INVENTORY_TARGET": shared.addresses.of("inventory"),
            },
        )
        for name in SERVICES
    ]


def _part(shared: SharedSettings, name: str, module: str, environment: Mapping[str, str]) -> GrpcPart:
    address = shared.addresses.of(name)
    process = Process(
        [sys.executable, "-m", module],
        environment={
            **_inherited_environment(),
            **mesh_environment(shared),
            "CREDMESH_ADDRESS": address,
            "CREDMESH_LISTEN": address,
            "CREDMESH_DRAIN": _DRAIN_SECONDS,
            **environment,
        },
        log_file=shared.logs / f"{name}.log",
    )
    return GrpcPart(name, address, process, shared.certificates.ca_file)


def _inherited_environment() -> dict[str, str]:
    ours = ("CREDMESH_", "ETCD_")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(ours) or name in INHERITED_VARIABLES
    }
    # All parts are on this machine, so they must not use the terminal's HTTP proxy.
    return kept | {"no_grpc_proxy": HOST, "PYTHONUNBUFFERED": "1"}
