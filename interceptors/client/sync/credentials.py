"""`Credentials`: signs sync code in, and attaches the credential to its calls."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc

from interceptors.client.sources import CallerToken, FixedToken, Source
from interceptors.client.supply import FixedSupply, PropagatedSupply, Supply, require_auth_channel, subject_of
from interceptors.client.sync.interceptor import AttachingInterceptor, obtain_credential
from interceptors.client.sync.renewer import OnRotate, Renewer

__all__ = ["Credentials"]


class Credentials:
    """Obtains a credential, renews it, and attaches it to the calls of one or more channels. Thread-safe.

        with channel("auth.example.com:8443", ca_file="ca.pem") as auth:
            credentials = Credentials(PasswordLogin("alice", password), auth)
            with channel("orders.example.com:8443", ca_file="ca.pem", credentials=credentials) as orders:
                ...

    source     what to sign in with
    auth       a channel to the auth service; not needed for FixedToken and CallerToken. It carries passwords and
               refresh tokens: make it with `channel`
    on_rotate  called with all new credentials before any call uses them, so that an application can keep the refresh
               token for its next run

    The first call signs in. From then on the credential is renewed in the background, by one request at a time, while
    the last one is good. The credential of an idle client lapses; its next call refreshes it, or signs in. If a server
    refuses a call because the credential expired, was revoked or was signed by a key that the server does not know, the
    call is made once more with a fresh one. A call is not repeated if it sends a stream, or has received a response.

    A call waits for its credential no longer than its own timeout. With `wait_for_ready` it waits for the auth service
    as it does for its own server. If no credential can be obtained, calls fail with a grpc.RpcError that has the
    code(), details() and trailing_metadata() of the auth service's answer. So callers handle one kind of error.
    """

    def __init__(
        self,
        source: Source,
        auth: grpc.Channel | None = None,
        *,
        on_rotate: OnRotate | None = None,
    ) -> None:
        self._source = source
        self._renewer: Renewer | None = None
        self._supply: Supply
        if isinstance(source, FixedToken):
            self._supply = FixedSupply(source.token)
        elif isinstance(source, CallerToken):
            self._supply = PropagatedSupply()
        else:
            self._supply = self._renewer = Renewer(source, require_auth_channel(source, auth), on_rotate)
        self._interceptor = AttachingInterceptor(self._supply)

    def token(self, timeout: float | None = None) -> str:
        """Returns a credential that is good now, for use outside gRPC. Waits at most `timeout` seconds for one.

        Raises what a call would raise: grpc.RpcError, or LookupError for CallerToken outside a handler.
        """
        held = self._supply.current() or obtain_credential(self._supply, timeout)
        return held.token

    def interceptors(self) -> Sequence[AttachingInterceptor]:
        """Returns interceptors for `grpc.intercept_channel`, for a channel that is made elsewhere.

        Prefer `channel(…, credentials=…)`, whose calls cost less CPU and which encrypts. An interceptor cannot see
        whether its channel is encrypted: on an insecure channel everyone on the network path can read the credential.
        (grpc.CallCredentials refuse an insecure channel. But they cannot retry a refused call, they double the CPU cost
        of a call, and they add a second entry where the caller has set one.)
        """
        return (self._interceptor,)

    @property
    def subject(self) -> str | None:
        """The user or client that the source signs in; None if the source does not say."""
        return subject_of(self._source)

    @property
    def session_id(self) -> str | None:
        """The session of the credential, once signed in; None without a session. Not a secret."""
        return None if self._renewer is None else self._renewer.session_id

    def close(self) -> None:
        """Drops the credential and stops renewing it; later calls fail. The session goes on until it times out."""
        if self._renewer is not None:
            self._renewer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
