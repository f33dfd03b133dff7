"""`AioCredentials`: what grpc.aio code signs in with, and attaches to its calls."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc.aio

from interceptors.client.aio.interceptor import AioSupply, attaching_interceptors, wait_for
from interceptors.client.aio.renewer import AioRenewer, AioRotated
from interceptors.client.renewal import HeldCredential
from interceptors.client.sources import CallerToken, FixedToken, Source
from interceptors.client.sync.credentials import FixedSupply, PropagatedSupply, auth_needed, subject_of

__all__ = ["AioCredentials"]


class AioCredentials:
    """Credentials for grpc.aio: what they are, how they are renewed and what calls see is as in `Credentials`.

        async with aio_channel("auth.example.com:8443", ca_file="ca.pem") as auth:
            credentials = AioCredentials(PasswordLogin("alice", password), auth)
            async with aio_channel("orders.example.com:8443", ca_file="ca.pem", credentials=credentials) as orders:
                ...

    Make them, like their channels, in the event loop that they are used in. `on_rotate` may be a coroutine function.
    """

    def __init__(
        self,
        source: Source,
        auth: grpc.aio.Channel | None = None,
        *,
        on_rotate: AioRotated | None = None,
    ) -> None:
        self._source = source
        self._renewer: AioRenewer | None = None
        self._supply: AioSupply
        if isinstance(source, FixedToken):
            self._supply = _AtOnce(FixedSupply(source.token))
        elif isinstance(source, CallerToken):
            self._supply = _AtOnce(PropagatedSupply())
        else:
            self._supply = self._renewer = AioRenewer(source, auth_needed(source, auth), on_rotate)
        self._interceptors = attaching_interceptors(self._supply)

    async def token(self, timeout: float | None = None) -> str:
        """A credential that is good now, to send by other means; waits for one at most `timeout` seconds.

        Raises what a call would raise: grpc.aio.AioRpcError, or LookupError for CallerToken outside a handler.
        """
        held = self._supply.current() or await wait_for(self._supply, None, timeout)
        if held is None:
            raise TypeError("a supply gives a credential unless a refusal is to be followed")
        return held.token

    def interceptors(self) -> Sequence[grpc.aio.ClientInterceptor]:
        """For a channel made elsewhere; `aio_channel(…, credentials=…)` uses them by itself. See `Credentials`."""
        return self._interceptors

    @property
    def subject(self) -> str | None:
        """Whom they speak for, where the source knows: the user, or the client."""
        return subject_of(self._source)

    @property
    def session_id(self) -> str | None:
        """The session behind them, once signed in and where there is one. Not a secret."""
        return None if self._renewer is None else self._renewer.session_id

    async def close(self) -> None:
        """Forgets the credential and stops renewing it; later calls fail. The session goes on until it times out."""
        if self._renewer is not None:
            await self._renewer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _AtOnce:
    """A supply that never asks anybody, for aio."""

    def __init__(self, supply: FixedSupply) -> None:
        self.current = supply.current
        self.stream_began = supply.stream_began
        self.stream_ended = supply.stream_ended

    async def obtain(self, stale: HeldCredential | None, *, refused: bool = False) -> HeldCredential | None:
        """There is no other."""
        del stale, refused
        return None
