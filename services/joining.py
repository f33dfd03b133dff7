"""How a sample service joins the mesh: its node, and its channels to the other services."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
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
from interceptors.sessions import GrpcSessionResolver
from services.settings import ServiceSettings

__all__ = ["aio_channel_to", "channel_to", "joined"]


@contextmanager
def joined(settings: ServiceSettings) -> Iterator[MeshNode]:
    """A started node, which resolves opaque sessions if the settings name the auth service."""
    if not settings.auth:
        with MeshNode(settings.mesh) as node:
            yield node
        return
    secret = ClientSecret(settings.client_id, _secret(settings), audiences=("credmesh.auth",))
    plaintext = settings.server.plaintext
    with (
        channel(settings.auth, ca_file=settings.ca_file, allow_plaintext=plaintext) as login,
        Credentials(secret, login) as credentials,
        channel(settings.auth, ca_file=settings.ca_file, credentials=credentials, allow_plaintext=plaintext) as auth,
        MeshNode(settings.mesh, resolver=GrpcSessionResolver(auth)) as node,
    ):
        yield node


def channel_to(target: str, settings: ServiceSettings) -> grpc.Channel:
    """A channel to another service that carries on the credential of the call being served."""
    return channel(
        target,
        ca_file=settings.ca_file,
        credentials=Credentials(CallerToken()),
        allow_plaintext=settings.server.plaintext,
    )


def aio_channel_to(target: str, settings: ServiceSettings) -> aio.Channel:
    """The same for asyncio."""
    return aio_channel(
        target,
        ca_file=settings.ca_file,
        credentials=AioCredentials(CallerToken()),
        allow_plaintext=settings.server.plaintext,
    )


def _secret(settings: ServiceSettings) -> str:
    path = settings.client_secret_file
    if path is None:
        raise SettingsError("CREDMESH_CLIENT_SECRET_FILE is not set; for example: /etc/credmesh/client-secret")
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"CREDMESH_CLIENT_SECRET_FILE={path} cannot be read: {error.strerror}") from None
