"""Calls to the auth service: over one channel, as the profile's client, as the signed-in user, or as nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import grpc
from google.protobuf.message import Message

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.error_advice import DEADLINE_EXCEEDED, Speaker, Trouble, explain
from authsvc.cli.mesh.profile import Profile, require_auth
from authsvc.cli.mesh.saved_login import current_token, read_login, renewed_token
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.client import ClientSecret, channel
from interceptors.error_details import error_info_in
from interceptors.errors import Reason, reason_of

__all__ = ["DEADLINE_EXCEEDED", "Connection"]

AUDIENCE: Final = "credmesh.auth"
PAGE_SIZE: Final = 1000

Q = TypeVar("Q", bound=Message, contravariant=True)
A = TypeVar("A", bound=Message, covariant=True)


class Method(Protocol[Q, A]):
    """A stub's unary method."""

    def __call__(self, request: Q, *, timeout: float, metadata: Any) -> A:
        """Makes the call."""


class StreamMethod(Protocol[Q, A]):
    """A stub's method whose answers come one after the other."""

    def __call__(self, request: Q, *, timeout: float | None, metadata: Any) -> Iterator[A]:
        """Makes the call."""


class Connection:
    """A channel to the auth service, and who speaks over it.

    Failures of calls come out as `Failure`, which says what to do. A credential that was refused because it is old is
    renewed once. Use it as a context manager.
    """

    def __init__(self, profile: Profile, *, timeout: float) -> None:
        """A connection that speaks as nobody. Failure if the profile does not say where to."""
        require_auth(profile)
        self.profile = profile
        self.speaker = Speaker()
        self._timeout = timeout
        self._credential = ""
        self._renew: Callable[[str], str] | None = None
        self.channel = _channel(profile)

    @classmethod
    def signed_in(cls, profile: Profile, *, timeout: float, speak_as: str, prefer: str) -> Self:
        """A connection that speaks as the profile's client or the signed-in user.

        speak_as is "client", "user" or "": then it is whom the command would rather be, `prefer`, if that is there.
        """
        connection = cls(profile, timeout=timeout)
        try:
            connection._sign_in(speak_as or _choice(profile, prefer))
        except BaseException:
            connection.close()
            raise
        return connection

    def credential(self) -> str:
        """The credential that calls carry. A secret."""
        return self._credential

    def call(
        self, method: Method[Q, A], request: Q, *, credential: str | None = None, timeout: float | None = None
    ) -> A:
        """Makes a call, with the connection's credential or the one given. Raises Failure.

        timeout: seconds that it may take; by default the connection's.
        """
        timeout = self._timeout if timeout is None else timeout
        try:
            return self._call(method, request, self._credential if credential is None else credential, timeout)
        except grpc.RpcError as error:
            reason = _trouble(error).reason
            if credential is not None or self._renew is None or reason is None or not reason.renewable:
                raise self._failure(error) from None
        self._credential = self._renew(self._credential)
        try:
            return self._call(method, request, self._credential, timeout)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def stream(self, method: StreamMethod[Q, A], request: Q, *, timeout: float | None = None) -> Iterator[A]:
        """Makes a call whose answers come one after the other, and gives them. Raises Failure, DEADLINE_EXCEEDED too.

        A stream ends with the credential that opened it: with a new one it is made again, and begins from its
        beginning. So for as long as it takes; for a credential that was revoked once, since somebody may mean it.

        timeout: seconds that all of it may take; None for as long as the caller listens.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        renewed = revoked = False
        while True:
            credential, answered = self._credential, False
            entry = (("authorization", f"Bearer {credential}"),) if credential else None
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                for answer in method(request, timeout=left, metadata=entry):
                    answered = True
                    yield answer
            except grpc.RpcError as error:
                reason = _trouble(error).reason
                if self._renew is None or reason is None or not reason.renewable:
                    raise self._failure(error) from None
                # A new one that is refused at once will be so again.
                if (renewed and not answered) or (revoked and reason is Reason.CREDENTIAL_REVOKED):
                    raise self._failure(error) from None
            else:
                return
            renewed, revoked = True, revoked or reason is Reason.CREDENTIAL_REVOKED
            if self._credential == credential:  # a call that was made meanwhile may have renewed it
                self._credential = self._renew(credential)

    def every_page(self, method: Method[Q, A], request: Q, *, page_size: int = PAGE_SIZE) -> A:
        """Makes a list call until its last page; the answers in one. Raises Failure."""
        asked: Any = request
        asked.page_size = page_size
        answer: Any = self.call(method, request)
        token = answer.next_page_token
        while token:
            asked.page_token = token
            page: Any = self.call(method, request)
            token = page.next_page_token
            answer.MergeFrom(page)
        answer.ClearField("next_page_token")
        whole: A = answer
        return whole

    def close(self) -> None:
        """Closes the channel."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Method[Q, A], request: Q, credential: str, timeout: float) -> A:
        entry = (("authorization", f"Bearer {credential}"),) if credential else None
        return method(request, timeout=timeout, metadata=entry)

    def _sign_in(self, kind: str) -> None:
        if kind == "user":
            path = self.profile.credentials_file
            saved = read_login(path)
            self.speaker = Speaker("user", "" if saved is None else saved.subject)
            self._credential = current_token(path, self._refresh, time.time())
            if saved is None or not saved.session_token:  # a session token is never renewed: it lives with its session
                self._renew = lambda old: self._renewed(path, old)
        else:
            self.speaker = Speaker("client", self.profile.client_id)
            self._credential = self._client_token()
            self._renew = lambda _: self._client_token()

    def _client_token(self) -> str:
        # The secret goes into this one request; nothing holds on to it.
        source = ClientSecret(self.profile.client_id, self.profile.client_secret(), audiences=(AUDIENCE,))
        stub = auth_pb2_grpc.AuthServiceStub(self.channel)
        return self.call(stub.Login, source.login_request(), credential="").credentials.access_token

    def _refresh(self, refresh_token: str) -> auth_pb2.Credentials:
        stub = auth_pb2_grpc.AuthServiceStub(self.channel)
        request = auth_pb2.RefreshRequest(refresh_token=refresh_token)
        return self.call(stub.Refresh, request, credential="").credentials

    def _renewed(self, path: Path, old: str) -> str:
        return renewed_token(path, self._refresh, time.time(), old=old)

    def _failure(self, error: grpc.RpcError) -> Failure:
        return explain(_trouble(error), self.profile, self.speaker, timeout=self._timeout)


def _choice(profile: Profile, prefer: str) -> str:
    if prefer == "user" and profile.credentials_file.exists():
        return "user"
    if profile.client_id:
        return "client"
    if profile.credentials_file.exists():
        return "user"
    raise Failure(
        f"nobody is signed in, and {profile.origin} names no client",
        next_step="Sign in with `credmesh login SUBJECT`, or set client_id and client_secret_file in the profile.",
        code=ExitCode.USAGE,
    )


def _channel(profile: Profile) -> grpc.Channel:
    files = {"ca_file": profile.ca_file, "cert_file": profile.cert_file, "key_file": profile.key_file}
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise Failure(
                f"{path}, which {profile.place(name)} names, is not there",
                next_step="`make run` makes a new development CA; for another mesh ask whoever runs it for its CA.",
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
            f"the auth service at {profile.auth} cannot be spoken to: {error}",
            next_step=f"{profile.place('auth')} says where it is; `credmesh --help` explains the entries of a profile.",
            code=ExitCode.USAGE,
        ) from None


def _trouble(error: grpc.RpcError) -> Trouble:
    trailing: Any = error.trailing_metadata() or ()
    info = error_info_in(trailing)
    return Trouble(
        error.code(), error.details() or "", reason_of(trailing), {} if info is None else dict(info.metadata)
    )
