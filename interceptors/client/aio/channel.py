"""grpc.aio channels that are encrypted unless told otherwise, and that attach credentials."""

from __future__ import annotations

import grpc.aio

from interceptors.client.aio.credentials import AioCredentials
from interceptors.client.channel_arguments import File, Options, channel_arguments

__all__ = ["aio_channel"]


def aio_channel(
    target: str,
    *,
    ca_file: File | None = None,
    cert_file: File | None = None,
    key_file: File | None = None,
    server_name: str | None = None,
    credentials: AioCredentials | None = None,
    allow_plaintext: bool = False,
    options: Options = (),
) -> grpc.aio.Channel:
    """Returns a grpc.aio channel; the arguments are those of `channel`. Make it in the event loop that uses it."""
    if credentials is not None and not isinstance(credentials, AioCredentials):
        raise TypeError("aio_channel() takes AioCredentials; Credentials go with channel()")
    arguments = channel_arguments(target, ca_file, cert_file, key_file, server_name, allow_plaintext, options)
    interceptors = None if credentials is None else credentials.interceptors()
    if arguments.security is None:
        return grpc.aio.insecure_channel(arguments.target, arguments.options, interceptors=interceptors)
    return grpc.aio.secure_channel(arguments.target, arguments.security, arguments.options, interceptors=interceptors)
