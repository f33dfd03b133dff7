"""Joining the mesh as a service: its node, and its channels to other services."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from interceptors.client import AioCredentials, CallerToken, ClientSecret, Credentials, aio_channel, channel
from interceptors.errors import SettingsError
from interceptors.node.mesh_node import MeshNode
from interceptors.pem import read_certificates
from interceptors.settings import MeshSettings, ServerSettings, setting
from interceptors.verification.session_resolver import GrpcSessionResolver

__all__ = ["ServiceSettings", "aio_propagating_channel", "join_mesh", "propagating_channel"]

_AUTH_AUDIENCE: Final = "credmesh.auth"
_CA_FILE_EXAMPLE: Final = "/etc/credmesh/ca.pem"
_SECRET_FILE_EXAMPLE: Final = "/etc/credmesh/client-secret"  # noqa: S105 - a path
_TARGET: Final = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):.+|.+:\d+")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """The settings of a service in the mesh. Without CREDMESH_AUTH the service refuses opaque sessions.

    Subclass it to add settings of the service's own, such as the targets of other services.
    """

    mesh: MeshSettings
    server: ServerSettings
    auth: str = setting(
        "CREDMESH_AUTH",
        "10.0.0.1:8443,10.0.0.2:8443",
        default="",
        help="the auth service, which resolves opaque sessions",
    )
    ca_file: Path | None = setting(
        "CREDMESH_CA_FILE", _CA_FILE_EXAMPLE, default=None, help="certificates to trust when calling other services"
    )
    client_id: str = setting(
        "CREDMESH_CLIENT_ID", "services", default="", help="the client that resolves opaque sessions"
    )
    client_secret_file: Path | None = setting(
        "CREDMESH_CLIENT_SECRET_FILE", _SECRET_FILE_EXAMPLE, default=None, help="that client's secret"
    )

    def __post_init__(self) -> None:
        if self.auth and not (self.client_id and self.client_secret_file):
            raise ValueError(
                "CREDMESH_AUTH needs CREDMESH_CLIENT_ID and CREDMESH_CLIENT_SECRET_FILE; for example: "
                f"CREDMESH_CLIENT_ID=services CREDMESH_CLIENT_SECRET_FILE={_SECRET_FILE_EXAMPLE}"
            )


@contextmanager
def join_mesh(settings: ServiceSettings) -> Iterator[MeshNode]:
    """Starts a node, and stops it at the end. The node resolves opaque sessions if `settings.auth` is set.

        with join_mesh(read_settings(ServiceSettings)) as node:

    SettingsError names the variable that cannot be used.
    """
    if not settings.auth:
        with MeshNode(settings.mesh) as node:
            yield node
        return
    secret = _client_secret(settings)
    with (
        _channel("CREDMESH_AUTH", settings.auth, settings) as login,
        Credentials(secret, login) as credentials,
        _channel("CREDMESH_AUTH", settings.auth, settings, credentials) as auth,
        MeshNode(settings.mesh, resolver=GrpcSessionResolver(auth)) as node,
    ):
        yield node


def propagating_channel(variable: str, target: str, settings: ServiceSettings) -> grpc.Channel:
    """A channel to another service. Its calls carry the credential of the caller whose call is being served.

    variable: where the target was set. SettingsError names this variable or CREDMESH_CA_FILE, if its value cannot be
    used.
    """
    return _channel(variable, target, settings, Credentials(CallerToken()))


def aio_propagating_channel(variable: str, target: str, settings: ServiceSettings) -> grpc.aio.Channel:
    """As `propagating_channel`, for asyncio."""
    with _naming_the_variable(variable, target, settings):
        return aio_channel(
            target,
            ca_file=settings.ca_file,
            credentials=AioCredentials(CallerToken()),
            allow_plaintext=settings.server.plaintext,
        )


def _channel(
    variable: str, target: str, settings: ServiceSettings, credentials: Credentials | None = None
) -> grpc.Channel:
    with _naming_the_variable(variable, target, settings):
        return channel(
            target, ca_file=settings.ca_file, credentials=credentials, allow_plaintext=settings.server.plaintext
        )


@contextmanager
def _naming_the_variable(variable: str, target: str, settings: ServiceSettings) -> Iterator[None]:
    """Checks a channel's arguments. Its errors name the environment variable, with an example."""
    if settings.ca_file is not None:
        read_certificates("CREDMESH_CA_FILE", settings.ca_file, example=_CA_FILE_EXAMPLE)
    example = f"for example: {variable}={_example(variable, settings)}"
    # Without a port gRPC would call port 443, and report only that the connection was refused.
    if not all(_TARGET.fullmatch(entry.strip()) for entry in target.split(",")):
        raise SettingsError(f"{variable}={target!r} is not host:port; {example}")
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}; {example}") from None


def _example(variable: str, settings: ServiceSettings) -> str:
    examples = {field.metadata.get("variable"): field.metadata.get("example") for field in fields(settings)}
    return examples.get(variable) or "orders.example.com:8443"


def _client_secret(settings: ServiceSettings) -> ClientSecret:
    """The client of the service. Its secret is read again for every login, so a new one needs no restart."""
    path = settings.client_secret_file
    example = f"for example: CREDMESH_CLIENT_SECRET_FILE={_SECRET_FILE_EXAMPLE}"
    if path is None:
        raise SettingsError(f"CREDMESH_CLIENT_SECRET_FILE is not set; {example}")
    try:
        return ClientSecret(settings.client_id, client_secret_file=path, audiences=(_AUTH_AUDIENCE,))
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
    except ValueError as error:
        problem = str(error)  # begins with the path
    raise SettingsError(f"CREDMESH_CLIENT_SECRET_FILE={problem}; {example}")
