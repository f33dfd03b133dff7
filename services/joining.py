"""How a sample service joins the mesh: its node, and its channels to the other services."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from grpc import aio

from interceptors import MeshNode
from interceptors.client import (
    AioCredentials,
    CallerToken,
    ClientSecret,
    Credentials,
    aio_channel,
    channel,
)
from interceptors.errors import SettingsError
from interceptors.verification.session_resolver import GrpcSessionResolver
from services.settings import ServiceSettings

__all__ = ["aio_channel_to", "channel_to", "joined"]


_TARGET: Final = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):.+|.+:\d+")


@contextmanager
def joined(settings: ServiceSettings) -> Iterator[MeshNode]:
    """A started node, which resolves opaque sessions if the settings name the auth service. SettingsError."""
    if not settings.auth:
        with MeshNode(settings.mesh) as node:
            yield node
        return
    secret = ClientSecret(settings.client_id, _secret(settings), audiences=("credmesh.auth",))
    with (
        _channel("CREDMESH_AUTH", settings.auth, settings) as login,
        Credentials(secret, login) as credentials,
        _channel("CREDMESH_AUTH", settings.auth, settings, credentials) as auth,
        MeshNode(settings.mesh, resolver=GrpcSessionResolver(auth)) as node,
    ):
        yield node


def channel_to(variable: str, target: str, settings: ServiceSettings) -> grpc.Channel:
    """A channel to another service that carries on the credential of the call being served.

    `variable` is where the target comes from; SettingsError names it, or CREDMESH_CA_FILE, if the value cannot be used.
    """
    return _channel(variable, target, settings, Credentials(CallerToken()))


def aio_channel_to(variable: str, target: str, settings: ServiceSettings) -> aio.Channel:
    """The same for asyncio."""
    with _explained(variable, target, settings):
        return aio_channel(
            target,
            ca_file=settings.ca_file,
            credentials=AioCredentials(CallerToken()),
            allow_plaintext=settings.server.plaintext,
        )


def _channel(
    variable: str, target: str, settings: ServiceSettings, credentials: Credentials | None = None
) -> grpc.Channel:
    with _explained(variable, target, settings):
        return channel(
            target, ca_file=settings.ca_file, credentials=credentials, allow_plaintext=settings.server.plaintext
        )


@contextmanager
def _explained(variable: str, target: str, settings: ServiceSettings) -> Iterator[None]:
    """Turns what is wrong with a channel's arguments into the variable that is wrong, and an example."""
    _check_ca(settings.ca_file)
    example = f"for example: {variable}={_example(variable, settings)}"
    # gRPC would take 443 for the port that is left out, and only say that nobody answers there.
    if not all(_TARGET.fullmatch(entry.strip()) for entry in target.split(",")):
        raise SettingsError(f"{variable}={target!r} is not host:port; {example}")
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}; {example}") from None


def _example(variable: str, settings: ServiceSettings) -> str:
    return next(str(one.metadata["example"]) for one in fields(settings) if one.metadata.get("variable") == variable)


def _check_ca(path: Path | None) -> None:
    """A file that holds no certificate makes no connection, and gRPC does not say why."""
    if path is None:
        return
    try:
        x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError:
        problem = "holds no PEM certificate"
    else:
        return
    raise SettingsError(f"CREDMESH_CA_FILE={path} {problem}; for example: CREDMESH_CA_FILE=/etc/credmesh/ca.pem")


def _secret(settings: ServiceSettings) -> str:
    path = settings.client_secret_file
    example = "for example: CREDMESH_CLIENT_SECRET_FILE=/etc/credmesh/client-secret"
    if path is None:
        raise SettingsError(f"CREDMESH_CLIENT_SECRET_FILE is not set; {example}")
    try:
        secret = path.read_text().strip()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is not text"
    else:
        if secret:
            return secret
        problem = f"is empty, and should hold the secret of client {settings.client_id!r}"
    raise SettingsError(f"CREDMESH_CLIENT_SECRET_FILE={path} {problem}; {example}")
