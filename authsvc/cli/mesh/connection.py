"""Calls to the auth service over one channel: their credential, deadline, pages, and failures as `Failure`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import grpc
from google.protobuf.message import Message

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.error_advice import DEADLINE_EXCEEDED, CallerAccount, CallError, failure_of_call
from authsvc.cli.mesh.profile import Profile, require_auth
from interceptors.client import channel
from interceptors.error_details import error_info_in
from interceptors.errors import Reason, reason_of

__all__ = ["DEADLINE_EXCEEDED", "Connection", "Renew"]

PAGE_SIZE: Final = 1000

Q = TypeVar("Q", bound=Message, contravariant=True)
A = TypeVar("A", bound=Message, covariant=True)

Renew = Callable[[str], str]
"""Returns a new credential in place of a refused one."""


class Method(Protocol[Q, A]):
    """A stub's unary method."""

    def __call__(self, request: Q, *, timeout: float, metadata: Any) -> A:
        """Makes the call."""


class StreamMethod(Protocol[Q, A]):
    """A stub's method that returns a stream of responses."""

    def __call__(self, request: Q, *, timeout: float | None, metadata: Any) -> Iterator[A]:
        """Makes the call."""


class Connection:
    """A channel to the auth service, and the credential that its calls carry.

    A call that fails raises `Failure`, which says what to do. A call that is refused because its credential has become
    invalid is repeated once with a renewed credential. A context manager.
    """

    def __init__(self, profile: Profile, *, timeout: float) -> None:
        """A connection without a credential. Failure if the profile has no address of an auth service.

        timeout  seconds for one call
        """
        require_auth(profile)
        self.profile = profile
        self.account = CallerAccount()
        self._timeout = timeout
        self._credential = ""
        self._renew: Renew | None = None
        self.channel = _open_channel(profile)

    @property
    def credential(self) -> str:
        """The credential that calls carry; "" for none. A secret."""
        return self._credential

    def use_credential(self, credential: str, *, renew: Renew | None) -> None:
        """Sets the credential of the following calls, and how to renew it; None if it cannot be renewed."""
        self._credential = credential
        self._renew = renew

    def call(
        self, method: Method[Q, A], request: Q, *, credential: str | None = None, timeout: float | None = None
    ) -> A:
        """Makes a call. Raises Failure.

        credential  sent in place of the connection's, and never renewed; "" for none
        timeout     seconds; by default the connection's
        """
        timeout = self._timeout if timeout is None else timeout
        used = self._credential if credential is None else credential
        try:
            return method(request, timeout=timeout, metadata=_metadata(used))
        except grpc.RpcError as error:
            if credential is not None or self._renewable_reason(error) is None:
                raise self._failure(error, timeout) from None
        self._renew_credential(used)
        try:
            return method(request, timeout=timeout, metadata=_metadata(self._credential))
        except grpc.RpcError as error:
            raise self._failure(error, timeout) from None

    def stream(self, method: StreamMethod[Q, A], request: Q, *, timeout: float | None = None) -> Iterator[A]:
        """Makes a call that returns a stream, and yields its responses. Raises Failure, also for DEADLINE_EXCEEDED.

        A stream ends when its credential does. It is then opened again with a renewed credential, and starts from the
        beginning. It is opened again as often as the credential expires, but only once after a revocation: a second one
        is probably meant for this caller.

        timeout  seconds for all of it; None for no limit
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        renewed = revoked = False
        while True:
            used, answered = self._credential, False
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                for response in method(request, timeout=left, metadata=_metadata(used)):
                    answered = True
                    yield response
            except grpc.RpcError as error:
                reason = self._renewable_reason(error)
                if reason is None:
                    raise self._failure(error, timeout) from None
                # A renewed credential that is refused at once would be refused again.
                if (renewed and not answered) or (revoked and reason is Reason.CREDENTIAL_REVOKED):
                    raise self._failure(error, timeout) from None
            else:
                return
            renewed, revoked = True, revoked or reason is Reason.CREDENTIAL_REVOKED
            self._renew_credential(used)

    def every_page(self, method: Method[Q, A], request: Q, *, page_size: int = PAGE_SIZE) -> A:
        """Makes a list call for every page, and returns them merged into one response. Raises Failure."""
        page_request: Any = request
        page_request.page_size = page_size
        merged: Any = self.call(method, request)
        token = merged.next_page_token
        while token:
            page_request.page_token = token
            page: Any = self.call(method, request)
            token = page.next_page_token
            merged.MergeFrom(page)
        merged.ClearField("next_page_token")
        response: A = merged
        return response

    def close(self) -> None:
        """Closes the channel."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _renewable_reason(self, error: grpc.RpcError) -> Reason | None:
        """The reason of a refusal that a renewed credential may overcome; None for any other error."""
        reason = _call_error(error).reason
        return reason if self._renew is not None and reason is not None and reason.renewable else None

    def _renew_credential(self, used: str) -> None:
        """Renews the credential, unless a call that was made during a stream has renewed it since `used`."""
        if self._renew is not None and self._credential == used:
            self._credential = self._renew(used)

    def _failure(self, error: grpc.RpcError, timeout: float | None) -> Failure:
        seconds = self._timeout if timeout is None else timeout
        return failure_of_call(_call_error(error), self.profile, self.account, timeout=seconds)


def _metadata(credential: str) -> tuple[tuple[str, str], ...] | None:
    return (("authorization", f"Bearer {credential}"),) if credential else None


def _open_channel(profile: Profile) -> grpc.Channel:
    files = {"ca_file": profile.ca_file, "cert_file": profile.cert_file, "key_file": profile.key_file}
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise Failure(
                f"{path} does not exist; {profile.source_of(name)} names it",
                next_step="`make run` makes a new development CA. For another mesh, ask its operator for the CA.",
                code=ExitCode.USAGE,
            )
    try:
        return channel(
            profile.auth,
            ca_file=profile.ca_file,
            cert_file=profile.cert_file,
            key_file=profile.key_file,
            server_name=profile.server_name or None,
            allow_plaintext=profile.plaintext,
        )
    except (OSError, ValueError) as error:
        raise Failure(
            f"no connection to the auth service at {profile.auth} is possible: {error}",
            next_step=f"Check {profile.setting_of('auth')}; `credmesh --help` explains the entries of a profile.",
            code=ExitCode.USAGE,
        ) from None


def _call_error(error: grpc.RpcError) -> CallError:
    trailing: Any = error.trailing_metadata() or ()
    info = error_info_in(trailing)
    return CallError(
        error.code(), error.details() or "", reason_of(trailing), {} if info is None else dict(info.metadata)
    )
