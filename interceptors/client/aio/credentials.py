"""`AioCredentials`: signs grpc.aio code in, and attaches the credential to its calls."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc.aio

from interceptors.client.aio.interceptor import attaching_interceptors, obtain_credential
from interceptors.client.aio.renewer import AioOnRotate, AioRenewer
from interceptors.client.sources import CallerToken, FixedToken, Source
from interceptors.client.supply import AioSupply, FixedSupply, PropagatedSupply, require_auth_channel, subject_of

__all__ = ["AioCredentials"]


class AioCredentials:
    """Credentials for grpc.aio. They are obtained, renewed and attached as those of `Credentials`.

        async with aio_channel("auth.example.com:8443", ca_file="ca.pem") as auth:
            credentials = AioCredentials(PasswordLogin("alice", password), auth)
            async with aio_channel("orders.example.com:8443", ca_file="ca.pem", credentials=credentials) as orders:
                ...

    Make them, like their channels, in the event loop that uses them. `on_rotate` may be a coroutine function.
    """

    def __init__(
        self,
        source: Source,
        auth: grpc.aio.Channel | None = None,
        *,
        on_rotate: AioOnRotate | None = None,
    ) -> None:
        self._source = source
        self._renewer: AioRenewer | None = None
        self._supply: AioSupply
        if isinstance(source, FixedToken):
            self._supply = FixedSupply(source.token)
        elif isinstance(source, CallerToken):
            self._supply = PropagatedSupply()
        else:
            self._supply = self._renewer = AioRenewer(source, require_auth_channel(source, auth), on_rotate)
        self._interceptors = attaching_interceptors(self._supply)

    async def token(self, timeout: float | None = None) -> str:
        """Returns a credential that is good now, for use outside gRPC. Waits at most `timeout` seconds for one.

        Raises what a call would raise: grpc.aio.AioRpcError, or LookupError for CallerToken outside a handler.
        """
        held = self._supply.current() or await obtain_credential(self._supply, timeout)
        return held.token

    def interceptors(self) -> Sequence[grpc.aio.ClientInterceptor]:
        """Returns interceptors for a channel that is made elsewhere; see `Credentials.interceptors`.

        `aio_channel(…, credentials=…)` uses them.
        """
        return self._interceptors

    @property
    def subject(self) -> str | None:
        """The user or client that the source signs in; None if the source does not say."""
        return subject_of(self._source)

    @property
    def session_id(self) -> str | None:
        """The session of the credential, once signed in; None without a session. Not a secret."""
        return None if self._renewer is None else self._renewer.session_id

    async def close(self) -> None:
        """Drops the credential and stops renewing it; later calls fail. The session goes on until it times out."""
        if self._renewer is not None:
            await self._renewer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
