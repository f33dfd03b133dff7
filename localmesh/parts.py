"""What a local mesh is made of, and what each part is told by its environment."""

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
    "PASSED_ON",
    "SERVICES",
    "TLS_OF_ETCD",
    "GrpcPart",
    "Surroundings",
    "auth_parts",
    "service_parts",
    "told",
]

AUTH_REPLICAS: Final = ("auth-1", "auth-2")
SERVICES: Final = ("storefront", "orders", "inventory")
TLS_OF_ETCD: Final = ("ETCD_CA_FILE", "ETCD_CERT_FILE", "ETCD_KEY_FILE")

_DRAIN: Final = "3"
_ANSWER_WITHIN: Final = 2.0

# What a part is told is said here. A variable that happens to be set in the terminal must not change it, but for these.
PASSED_ON: Final = frozenset({"CREDMESH_LOG_LEVEL", "CREDMESH_TOKEN_LIFETIME", "CREDMESH_ROTATION_INTERVAL"})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the parts share.

    secrets  the folder of the clients' secrets: one file each, named by the client's id
    memory   the folder in which replicas of the auth service keep what they remember of etcd
    """

    etcd: EtcdSettings
    addresses: Addresses
    certificates: Certificates
    kek_file: Path
    secrets: Path
    memory: Path
    logs: Path

    @property
    def issuer(self) -> str:
        """`iss` of the tokens: where OpenID discovery finds the keys."""
        return f"http://{self.addresses.of('auth-1 http')}"

    @property
    def auth(self) -> str:
        """The auth service's replicas, as CREDMESH_AUTH takes them."""
        return ",".join(self.addresses.of(name) for name in AUTH_REPLICAS)


class GrpcPart:
    """A process that serves gRPC and says by the health protocol whether it is ready."""

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
        """How the process ended."""
        return self._process.exit_code

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid

    def start(self) -> None:
        """Starts the process."""
        self._process.start()

    def ready(self) -> bool:
        """Whether health says SERVING."""
        host, _, port = self.address.rpartition(":")
        try:
            # gRPC pauses for a second after a refused connection; so knock first.
            socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN).close()
        except OSError:
            return False
        roots = grpc.ssl_channel_credentials(self._ca_file.read_bytes())
        with grpc.secure_channel(self.address, roots) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer: health_pb2.HealthCheckResponse = check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_WITHIN)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def terminate(self) -> None:
        """Asks the process to drain and end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def wait(self, timeout: float) -> bool:
        """Waits for the process's end."""
        return self._process.wait(timeout)


def told(around: Surroundings) -> dict[str, str]:
    """The environment variables that any service of this mesh needs, but for its name and where it listens."""
    etcd = around.etcd
    files = zip(TLS_OF_ETCD, (etcd.ca_file, etcd.cert_file, etcd.key_file), strict=True)
    return {
        "ETCD_ENDPOINTS": ",".join(etcd.endpoints),
        **{variable: str(path.absolute()) for variable, path in files if path is not None},
        "CREDMESH_ETCD_PREFIX": etcd.prefix,
        "CREDMESH_ISSUER": around.issuer,
        "CREDMESH_AUTH": around.auth,
        "CREDMESH_CA_FILE": str(around.certificates.ca_file),
        "CREDMESH_TLS_CERT_FILE": str(around.certificates.cert_file),
        "CREDMESH_TLS_KEY_FILE": str(around.certificates.key_file),
    }


def auth_parts(around: Surroundings) -> list[GrpcPart]:
    """The replicas of the auth service."""
    return [
        _part(
            around,
            name,
            "authsvc",
            {
                "CREDMESH_SERVICE": "auth",
                "CREDMESH_KEK_FILE": str(around.kek_file),
                "CREDMESH_HTTP_LISTEN": around.addresses.of(f"{name} http"),
                "CREDMESH_MEMORY_FILE": str(around.memory / f"{name}.json"),
            },
        )
        for name in AUTH_REPLICAS
    ]


def service_parts(around: Surroundings) -> list[GrpcPart]:
    """The sample services."""
    return [
        _part(
            around,
            name,
            f"services.{name}",
            {
                "CREDMESH_SERVICE": name,
                "CREDMESH_METRICS": around.addresses.of(f"{name} metrics"),
                "CREDMESH_CLIENT_ID": "services",
                "CREDMESH_CLIENT_SECRET_FILE": str(around.secrets / "services"),
                "ORDERS_TARGET": around.addresses.of("orders"),
                "INVENTORY_TARGET": around.addresses.of("inventory"),
            },
        )
        for name in SERVICES
    ]


def _part(around: Surroundings, name: str, module: str, environment: Mapping[str, str]) -> GrpcPart:
    address = around.addresses.of(name)
    process = Process(
        [sys.executable, "-m", module],
        environment={
            **_inherited(),
            **told(around),
            "CREDMESH_ADDRESS": address,
            "CREDMESH_LISTEN": address,
            "CREDMESH_DRAIN": _DRAIN,
            **environment,
        },
        log_file=around.logs / f"{name}.log",
    )
    return GrpcPart(name, address, process, around.certificates.ca_file)


def _inherited() -> dict[str, str]:
    ours = ("CREDMESH_", "ETCD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours) or name in PASSED_ON}
    # Everything is on this machine: a proxy that is set for the world outside has no part in it.
    return kept | {"no_grpc_proxy": HOST, "PYTHONUNBUFFERED": "1"}
