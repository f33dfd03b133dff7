"""The steps of one renewal, as decisions without a clock, a network or a thread.

`renew` is a generator. It yields each step (a request to the auth service, a pause) and is sent its outcome. `Renewer`
and `AioRenewer` carry the steps out, each with its own kind of I/O. Times are seconds of the process's monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Final

import grpc

from credmesh.auth.v1 import auth_pb2
from interceptors.backoff import Backoff
from interceptors.client.sources import ClientSecret, PasswordLogin, RefreshTokenLogin
from interceptors.errors import CredmeshError, Reason, reason_of

__all__ = [
    "Granted",
    "HeldCredential",
    "Metadata",
    "NoCredential",
    "Pause",
    "Random",
    "ReadSecret",
    "Renewable",
    "RenewalFailure",
    "RenewalFlow",
    "RenewalOutcome",
    "RenewalStep",
    "SecretRead",
    "renew",
]

# A credential is renewed at a random point between these fractions of its lifetime.
_EARLIEST_RENEWAL_FRACTION: Final = 0.6
_LATEST_RENEWAL_FRACTION: Final = 0.8
_MIN_RENEWAL_INTERVAL_SECONDS: Final = 0.2
_MAX_ATTEMPTS: Final = 3  # per request, within one renewal
_FIRST_RETRY_PAUSE_SECONDS: Final = 0.15
_LONGEST_RETRY_PAUSE_SECONDS: Final = 1.0
_TRANSIENT_CODES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
_UNREACHABLE_CODES: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

Metadata = tuple[tuple[str, str | bytes], ...]
"""A call's metadata, as a value that can be read more than once."""

Renewable = PasswordLogin | ClientSecret | RefreshTokenLogin
"""The sources that need the auth service."""

Random = Callable[[], float]
"""Returns a number in [0, 1). Spreads the renewals of clients that started together."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldCredential:
    """A credential that a client holds, ready to be sent. Compared by identity, to tell it from its successor.

    metadata        the metadata entry that carries it
    refresh_at      when to renew it in the background; infinite if its expiry is unknown
    expires_at      when it must not be sent any more
    lifetime        seconds from its issue to its expiry
    session_ending  whether its session seems to end soon: a refresh returned a token with less than half the lifetime
    """

    token: str = field(repr=False)
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    refresh_at: float = math.inf
    expires_at: float = math.inf
    lifetime: float = math.inf
    refresh_token: str = field(default="", repr=False)
    session_id: str | None = None
    session_ending: bool = False

    @classmethod
    def of(cls, token: str) -> HeldCredential:
        """Returns a credential of which only the text is known."""
        return cls(token, (("authorization", f"Bearer {token}"),))


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: wait this many seconds. Its outcome is None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ReadSecret:
    """A step: read the secret in this file. Its outcome is a SecretRead or a RenewalFailure."""

    file: str | PathLike[str]


@dataclass(frozen=True, slots=True)
class SecretRead:
    """The outcome of reading a secret."""

    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Granted:
    """The outcome of a request that the auth service granted, with the times of the request and of the answer."""

    credentials: auth_pb2.Credentials = field(repr=False)
    sent_at: float
    received_at: float


@dataclass(frozen=True, slots=True)
class RenewalFailure:
    """The outcome of a request that the auth service refused or did not answer. The caller's own call ends with it."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: Metadata = ()

    @classmethod
    def of(
        cls, code: grpc.StatusCode, details: str | None, metadata: Iterable[tuple[str, str | bytes]] | None
    ) -> RenewalFailure:
        """Describes a failed call to the auth service.

        The details of a refusal are passed on unchanged. Those of any other failure name the auth service, since the
        caller called another one.
        """
        trailing = tuple((key, value) for key, value in metadata or ())
        details = details or ""
        if reason_of(trailing) is None:
            details = f"the auth service gave no credential: {details}"
        return cls(code, details, trailing)

    @property
    def reason(self) -> Reason | None:
        """The reason of the refusal; None if the auth service did not answer or gave no reason."""
        return reason_of(self.trailing_metadata)

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.code in _TRANSIENT_CODES

    @property
    def unreachable(self) -> bool:
        """Whether the auth service did not answer or cannot answer yet. A call with `wait_for_ready` waits for it."""
        return self.code in _UNREACHABLE_CODES

    @property
    def refused(self) -> bool:
        """Whether the same request would fail again: the session ended, the password is wrong, the client unknown."""
        return not self.transient and self.code is not grpc.StatusCode.RESOURCE_EXHAUSTED


class NoCredential(CredmeshError):
    """No credential could be obtained. The interceptors turn it into the error that the caller's call raises."""

    def __init__(self, failure: RenewalFailure) -> None:
        super().__init__(failure.details)
        self.failure = failure


RenewalStep = auth_pb2.LoginRequest | auth_pb2.RefreshRequest | ReadSecret | Pause
RenewalOutcome = Granted | SecretRead | RenewalFailure
"""The outcome of a step; that of a pause is None."""
RenewalFlow = Generator[RenewalStep, RenewalOutcome | None, HeldCredential]
_Answered = Generator[RenewalStep, RenewalOutcome | None, Granted | RenewalFailure]


def renew(source: Renewable, held: HeldCredential | None, *, random: Random) -> RenewalFlow:
    """Refreshes the session that is held, or signs in. Returns the next credential to hold; raises NoCredential.

    If the auth service refuses the refresh, the session has ended: a source that can sign in does so, once.
    """
    login = None if isinstance(source, RefreshTokenLogin) else source
    if held is not None:
        refresh_token = held.refresh_token
    else:
        refresh_token = source.refresh_token if isinstance(source, RefreshTokenLogin) else ""
    # A session that ends soon yields ever shorter tokens. Signing in while its last token is good keeps calls from
    # waiting for the login.
    if refresh_token and (login is None or held is None or not held.session_ending):
        outcome = yield from _request(auth_pb2.RefreshRequest(refresh_token=refresh_token), random)
        if isinstance(outcome, Granted):
            return _credential_of(outcome, previous=held, random=random)
        if login is None or not outcome.refused:
            raise NoCredential(outcome)
    if login is None:
        raise NoCredential(
            RenewalFailure(grpc.StatusCode.UNAUTHENTICATED, "the session has no refresh token; sign in again")
        )
    outcome = yield from _sign_in(login, random)
    if isinstance(outcome, RenewalFailure):
        raise NoCredential(outcome)
    return _credential_of(outcome, previous=None, random=random)


def _sign_in(source: PasswordLogin | ClientSecret, random: Random) -> _Answered:
    if isinstance(source, PasswordLogin) or source.client_secret_file is None:
        return (yield from _request(source.login_request(), random))
    tried = ""
    refusal: RenewalFailure | None = None
    while True:
        read = yield ReadSecret(source.client_secret_file)
        if isinstance(read, RenewalFailure):
            return read
        if not isinstance(read, SecretRead):
            raise TypeError("the outcome of reading a secret is a SecretRead or a RenewalFailure")
        if refusal is not None and read.secret == tried:
            return refusal
        outcome = yield from _request(source.login_request(read.secret), random)
        # The secret may have been replaced since it was read. One new secret is tried, not every one that comes.
        if isinstance(outcome, Granted) or not outcome.refused or refusal is not None:
            return outcome
        tried, refusal = read.secret, outcome


def _request(request: RenewalStep, random: Random) -> _Answered:
    """Makes a request, and repeats it after transient failures.

    A refresh can be repeated: within the grace window the auth service answers it with the same successor.
    """
    backoff = Backoff(_FIRST_RETRY_PAUSE_SECONDS, _LONGEST_RETRY_PAUSE_SECONDS)
    attempt = 1
    while True:
        outcome = yield request
        if outcome is None or isinstance(outcome, SecretRead):
            raise TypeError("the outcome of a request is a Granted or a RenewalFailure")
        if isinstance(outcome, Granted) or not outcome.transient or attempt == _MAX_ATTEMPTS:
            return outcome
        yield Pause(backoff.next_delay(random))
        attempt += 1


def _credential_of(granted: Granted, *, previous: HeldCredential | None, random: Random) -> HeldCredential:
    credentials = granted.credentials
    token = credentials.access_token or credentials.session_token
    if not token:
        raise NoCredential(RenewalFailure(grpc.StatusCode.INTERNAL, "the auth service answered without a credential"))
    lifetime = math.inf
    refresh_at = math.inf
    if credentials.HasField("expires_in"):
        lifetime = credentials.expires_in.ToNanoseconds() / 1e9
        spread = (_LATEST_RENEWAL_FRACTION - _EARLIEST_RENEWAL_FRACTION) * random()
        refresh_at = max(
            granted.sent_at + lifetime * (_EARLIEST_RENEWAL_FRACTION + spread),
            granted.received_at + _MIN_RENEWAL_INTERVAL_SECONDS,
        )
    return replace(
        HeldCredential.of(token),
        refresh_at=refresh_at,
        # The lifetime begins between sending and receiving. Counting it from the sending never uses an expired token.
        expires_at=granted.sent_at + lifetime,
        lifetime=lifetime,
        refresh_token=credentials.refresh_token,
        session_id=credentials.session_id or None,
        session_ending=previous is not None and lifetime < previous.lifetime / 2,
    )
