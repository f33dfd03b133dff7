"""Sync channels that are encrypted unless told otherwise, and that attach credentials."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

from interceptors.client.attachment import caller_metadata
from interceptors.client.channel_arguments import File, Options, channel_arguments
from interceptors.client.renewal import HeldCredential
from interceptors.client.retry_rules import is_renewable, remaining_seconds
from interceptors.client.supply import Supply
from interceptors.client.sync.credentials import Credentials
from interceptors.client.sync.interceptor import AttachingInterceptor, obtain_credential, wait_for_credential
from interceptors.client.sync.retry import failed_retry

__all__ = ["channel"]


def channel(
    target: str,
    *,
    ca_file: File | None = None,
    cert_file: File | None = None,
    key_file: File | None = None,
    server_name: str | None = None,
    credentials: Credentials | None = None,
    allow_plaintext: bool = False,
    options: Options = (),
) -> grpc.Channel:
    """Returns a channel to a service, over TLS.

    target           "host:port", several IP addresses as "10.0.0.1:8443,10.0.0.2:8443", or a gRPC target such as
                     "dns:///auth.example.com:8443" or "unix:/run/orders.sock". Calls go to all addresses in turn; an
                     address that does not answer is left out until it does
    ca_file          PEM certificates to trust; by default gRPC's own roots
    cert_file        PEM certificate to present (mutual TLS), with its private key in key_file
    server_name      the name that the servers' certificates must hold, if it is not the target's host
    credentials      attached to every call
    allow_plaintext  without a ca_file, speaks without TLS: everyone on the network path can read the credentials. Not
                     needed for Unix sockets, which never leave the machine
    options          gRPC channel arguments; they take precedence over those that are set here

    An HTTP proxy that the environment names (`https_proxy`, `no_proxy`) is used for one remote host only, not for
    several addresses and not for those of this machine.

    The first call connects. ValueError if the arguments contradict each other, OSError if a file cannot be read.
    """
    if credentials is not None and not isinstance(credentials, Credentials):
        raise TypeError("channel() takes Credentials; AioCredentials go with aio_channel()")
    arguments = channel_arguments(target, ca_file, cert_file, key_file, server_name, allow_plaintext, options)
    if arguments.security is None:
        plain = grpc.insecure_channel(arguments.target, arguments.options)
    else:
        plain = grpc.secure_channel(arguments.target, arguments.security, arguments.options)
    return plain if credentials is None else _AttachingChannel(plain, *credentials.interceptors())


class _AttachingChannel(grpc.Channel):
    """A channel whose calls carry a credential.

    Blocking unary calls attach it directly; all others go through `grpc.intercept_channel`. gRPC's interceptors make
    several objects per call, which costs more CPU than all the rest of attaching a credential.
    """

    def __init__(self, plain: grpc.Channel, interceptor: AttachingInterceptor) -> None:
        self._plain: Any = plain
        self._intercepted: Any = grpc.intercept_channel(plain, interceptor)
        self._supply = interceptor.supply

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        """See grpc.Channel."""
        arguments = (method, request_serializer, response_deserializer, _registered_method)
        return _UnaryUnary(self._plain.unary_unary(*arguments), self._intercepted.unary_unary(*arguments), self._supply)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        """See grpc.Channel."""
        return self._intercepted.unary_stream(method, request_serializer, response_deserializer, _registered_method)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        """See grpc.Channel."""
        return self._intercepted.stream_unary(method, request_serializer, response_deserializer, _registered_method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        """See grpc.Channel."""
        return self._intercepted.stream_stream(method, request_serializer, response_deserializer, _registered_method)

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """See grpc.Channel."""
        self._plain.subscribe(callback, try_to_connect=try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """See grpc.Channel."""
        self._plain.unsubscribe(callback)

    def close(self) -> None:
        """See grpc.Channel."""
        self._plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _UnaryUnary(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A unary method. Its blocking calls attach the credential themselves; `future` uses the interceptor."""

    def __init__(self, plain: Any, intercepted: Any, supply: Supply) -> None:
        self._plain = plain
        self._plain_with_call = plain.with_call
        self._intercepted = intercepted
        self._supply = supply

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """See grpc.UnaryUnaryMultiCallable."""
        return self._call(self._plain, request, timeout, metadata, wait_for_ready, credentials, compression)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """See grpc.UnaryUnaryMultiCallable."""
        return self._call(self._plain_with_call, request, timeout, metadata, wait_for_ready, credentials, compression)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """See grpc.UnaryUnaryMultiCallable."""
        return self._intercepted.future(request, timeout, metadata, credentials, wait_for_ready, compression)

    def _call(
        self,
        attempt: Any,
        request: Any,
        timeout: float | None,
        metadata: Any,
        wait_for_ready: bool | None,
        credentials: Any,
        compression: Any,
    ) -> Any:
        """Makes a call, and repeats it once after a renewable refusal; see AttachingInterceptor."""
        started = time.monotonic()
        own = caller_metadata(metadata)
        remaining = timeout
        held = self._supply.current()
        if held is None:
            held = obtain_credential(self._supply, timeout, wait_for_ready=wait_for_ready)
            remaining = remaining_seconds(timeout, started)
        options = (credentials, wait_for_ready, compression)
        try:
            return attempt(request, remaining, own + held.metadata, *options)
        except grpc.RpcError as error:
            fresh = self._credential_after(error, held, timeout, started)
            if fresh is None:
                raise
        return attempt(request, remaining_seconds(timeout, started), own + fresh.metadata, *options)

    def _credential_after(
        self, error: Any, held: HeldCredential, timeout: float | None, started: float
    ) -> HeldCredential | None:
        """Waits for the credential of a second attempt; None if there is to be none."""
        if not is_renewable(error.code(), error.trailing_metadata()):
            return None
        try:
            future = self._supply.replace(held)
            if future is None:
                return None
            return wait_for_credential(self._supply, future, remaining_seconds(timeout, started))
        except grpc.RpcError:
            raise
        except Exception as failure:
            raise failed_retry(failure) from failure
