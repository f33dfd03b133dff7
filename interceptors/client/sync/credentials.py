"""`Credentials`: what sync code signs in with, and attaches to its calls."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import grpc

from interceptors.caller import credential_of_caller
from interceptors.client.renewal import HeldCredential
from interceptors.client.sources import CallerToken, ClientSecret, FixedToken, PasswordLogin, Source
from interceptors.client.sync.interceptor import AttachingInterceptor, Supply, wait_for
from interceptors.client.sync.renewer import Renewer, Rotated

__all__ = ["Credentials", "FixedSupply", "PropagatedSupply", "auth_needed", "subject_of"]


class Credentials:
    """Obtains a credential, keeps it fresh, and attaches it to the calls of one or more channels. Thread-safe.

        with channel("auth.example.com:8443", ca_file="ca.pem") as auth:
            credentials = Credentials(PasswordLogin("alice", password), auth)
            with channel("orders.example.com:8443", ca_file="ca.pem", credentials=credentials) as orders:
                ...

    source     what to sign in with
    auth       a channel to the auth service; not needed for FixedToken and CallerToken. It carries passwords and
               refresh tokens: make it with `channel`
    on_rotate  called with every new set of credentials before any call uses it, to keep a refresh token for the next
               run

    The first call signs in. From then on the credential is renewed in the background, in one request at a time, while
    the last one is good; an idle client lets it lapse, and signs in or refreshes with its next call. A call that a
    server refuses because its credential expired, was revoked or was signed by a key unknown to it is made once more
    with a fresh one, unless it sends a stream or has received something.

    Where there is no credential, calls fail with a grpc.RpcError that has the auth service's code(), details() and
    trailing_metadata(): there is one kind of error to handle.
    """

    def __init__(
        self,
        source: Source,
        auth: grpc.Channel | None = None,
        *,
        on_rotate: Rotated | None = None,
    ) -> None:
        self._source = source
        self._renewer: Renewer | None = None
        self._supply: Supply
        if isinstance(source, FixedToken):
            self._supply = FixedSupply(source.token)
        elif isinstance(source, CallerToken):
            self._supply = PropagatedSupply()
        else:
            self._supply = self._renewer = Renewer(source, auth_needed(source, auth), on_rotate)
        self._interceptor = AttachingInterceptor(self._supply)

    def token(self, timeout: float | None = None) -> str:
        """A credential that is good now, to send by other means; waits for one at most `timeout` seconds.

        Raises what a call would raise: grpc.RpcError, or LookupError for CallerToken outside a handler.
        """
        held = self._supply.current() or wait_for(self._supply, self._supply.obtain(None), timeout)
        return held.token

    def interceptors(self) -> Sequence[AttachingInterceptor]:
        """For `grpc.intercept_channel`, on a channel made elsewhere. `channel(…, credentials=…)` does it by itself.

        An interceptor cannot see whether its channel is encrypted. Whoever uses these vouches that it is: on an
        insecure channel the credential is readable by everybody on the way. (grpc.CallCredentials would refuse, but
        cannot retry a refused call, costs a thread per call, and adds a second entry where the caller has set one.)
        """
        return (self._interceptor,)

    @property
    def subject(self) -> str | None:
        """Whom it speaks for, where the source knows: the user, or the client."""
        return subject_of(self._source)

    @property
    def session_id(self) -> str | None:
        """The session behind it, once signed in and where there is one. Not a secret."""
        return None if self._renewer is None else self._renewer.session_id

    def close(self) -> None:
        """Forgets the credential and stops renewing it; later calls fail. The session goes on until it times out."""
        if self._renewer is not None:
            self._renewer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class FixedSupply:
    """A credential that never changes."""

    def __init__(self, token: str) -> None:
        self._held = HeldCredential.of(token)

    def current(self) -> HeldCredential:
        """Always the same."""
        return self._held

    def obtain(self, stale: HeldCredential | None, *, refused: bool = False) -> Future[HeldCredential] | None:
        """There is no other."""
        del stale, refused
        return None

    def used(self) -> None:
        """Nothing follows from it."""

    stream_began = stream_ended = used


class PropagatedSupply(FixedSupply):
    """The credential of whoever is calling."""

    def __init__(self) -> None:
        """Nothing is held between calls."""

    def current(self) -> HeldCredential:
        """The caller's own."""
        credential = credential_of_caller()
        if credential is None:
            raise LookupError(
                "there is no caller whose credential could be sent on: CallerToken() works in the handler of a method "
                "whose rule is not public, on a server with a credmesh interceptor"
            )
        return HeldCredential.of(credential)


def auth_needed(source: Source, auth: Any) -> Any:
    """The channel to the auth service. ValueError if it is missing."""
    if auth is None:
        raise ValueError(f"{type(source).__name__} needs a channel to the auth service; give it as `auth`")
    return auth


def subject_of(source: Source) -> str | None:
    """Whom a source speaks for, where it knows."""
    if isinstance(source, PasswordLogin):
        return source.subject
    return source.client_id if isinstance(source, ClientSecret) else None
