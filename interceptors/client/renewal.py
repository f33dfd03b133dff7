"""What to ask the auth service for, and when: the decisions, without a clock, a network or a thread.

`renewal` is the whole of one renewal as a generator. It yields what it needs (a request to be made, a pause) and is
sent how that went; `Credentials` and `AioCredentials` carry it out, each with its own kind of I/O. Times are seconds of
this process's monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import grpc

from credmesh.auth.v1 import auth_pb2
from interceptors.client.sources import ClientSecret, PasswordLogin, RefreshTokenLogin
from interceptors.errors import CredmeshError, Reason, reason_of

__all__ = [
    "Granted",
    "HeldCredential",
    "NoCredential",
    "Pause",
    "Random",
    "Renewable",
    "RenewalFailure",
    "RenewalFlow",
    "RenewalStep",
    "renewal",
]

_WINDOW: Final = (0.6, 0.8)  # the part of a lifetime after which it is renewed; where in there is left to chance
_SHORTEST: Final = 0.2  # seconds between two renewals ahead of expiry
_ATTEMPTS: Final = 3  # at one request, within one renewal
_RETRY_PAUSE: Final = 0.1  # seconds, doubled with each attempt
_TRANSIENT: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)

Metadata = Iterable[tuple[str, str | bytes]]

Renewable = PasswordLogin | ClientSecret | RefreshTokenLogin
"""The sources that need the auth service."""

Random = Callable[[], float]
"""A number from 0 to 1. Spreads out clients that began together."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldCredential:
    """A credential in hand, ready to be sent. Compared by identity: is this still the one that was refused?

    metadata    the metadata entry that carries it
    refresh_at  when to renew it, in the background; infinite where nothing is known of its end
    expires_at  from when on it must not be sent
    lifetime    how long it was good when it came
    ending      whether its session seems to end soon: it was refreshed, and came with a much shorter life
    """

    token: str = field(repr=False)
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    refresh_at: float = math.inf
    expires_at: float = math.inf
    lifetime: float = math.inf
    refresh_token: str = field(default="", repr=False)
    session_id: str | None = None
    ending: bool = False

    @classmethod
    def of(cls, token: str) -> HeldCredential:
        """A credential of which only its text is known."""
        return cls(token, (("authorization", f"Bearer {token}"),))


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this many seconds. The answer is None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Granted:
    """The auth service gave credentials. `asked_at` is when the request was sent, `now` when the answer was there."""

    credentials: auth_pb2.Credentials = field(repr=False)
    asked_at: float
    now: float


@dataclass(frozen=True, slots=True)
class RenewalFailure:
    """The auth service refused, or could not be asked: what a caller's own call then ends with."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()

    @classmethod
    def of(
        cls, code: grpc.StatusCode, details: str | None, metadata: Iterable[tuple[str, str | bytes]] | None
    ) -> RenewalFailure:
        """Of a failed call to the auth service. A refusal is passed on word for word; anything else says who failed."""
        trailing = tuple((key, value) for key, value in metadata or ())
        details = details or ""
        if reason_of(trailing) is None:
            details = f"the auth service gave no credential: {details}"
        return cls(code, details, trailing)

    @property
    def reason(self) -> Reason | None:
        """Why the auth service refused; None if it was not heard, or did not say."""
        return reason_of(self.trailing_metadata)

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.code in _TRANSIENT

    @property
    def refused(self) -> bool:
        """Whether the same request would fail again: the session is over, the password wrong, the client unknown."""
        return not self.transient and self.code is not grpc.StatusCode.RESOURCE_EXHAUSTED


class NoCredential(CredmeshError):
    """There is no credential. The adapters turn it into the error that the caller's call raises."""

    def __init__(self, failure: RenewalFailure) -> None:
        super().__init__(failure.details)
        self.failure = failure


RenewalStep = auth_pb2.LoginRequest | auth_pb2.RefreshRequest | Pause
RenewalFlow = Generator[RenewalStep, "Granted | RenewalFailure | None", HeldCredential]


def renewal(source: Renewable, held: HeldCredential | None, *, random: Random) -> RenewalFlow:
    """One renewal: refreshes the session in hand, or signs in. Returns what to hold next; raises NoCredential.

    A session that the auth service refuses to refresh is over; a source that can sign in does so, once.
    """
    login = None if isinstance(source, RefreshTokenLogin) else source.login_request()
    if held is not None:
        refresh_token = held.refresh_token
    else:
        refresh_token = source.refresh_token if isinstance(source, RefreshTokenLogin) else ""
    # A session about to end gives ever shorter tokens. Signing in while the last one is good keeps calls from waiting.
    if refresh_token and (login is None or held is None or not held.ending):
        reply = yield from _ask(auth_pb2.RefreshRequest(refresh_token=refresh_token), random)
        if isinstance(reply, Granted):
            return _hold(reply, before=held, random=random)
        if login is None or not reply.refused:
            raise NoCredential(reply)
    if login is None:
        raise NoCredential(
            RenewalFailure(grpc.StatusCode.UNAUTHENTICATED, "the session gave no refresh token; sign in again")
        )
    reply = yield from _ask(login, random)
    if isinstance(reply, RenewalFailure):
        raise NoCredential(reply)
    return _hold(reply, before=None, random=random)


def _ask(
    request: RenewalStep, random: Random
) -> Generator[RenewalStep, Granted | RenewalFailure | None, Granted | RenewalFailure]:
    """Asks until there is an answer that counts. Within its grace window, a retried refresh gets the same successor."""
    attempt = 1
    while True:
        reply = yield request
        if reply is None:
            raise TypeError("a request is answered by a Granted or a RenewalFailure")
        if isinstance(reply, Granted) or not reply.transient or attempt == _ATTEMPTS:
            return reply
        yield Pause(_RETRY_PAUSE * 2 ** (attempt - 1) * (0.5 + random()))
        attempt += 1


def _hold(answer: Granted, *, before: HeldCredential | None, random: Random) -> HeldCredential:
    credentials = answer.credentials
    token = credentials.access_token or credentials.session_token
    if not token:
        raise NoCredential(RenewalFailure(grpc.StatusCode.INTERNAL, "the auth service answered without a credential"))
    lifetime = math.inf
    refresh_at = math.inf
    if credentials.HasField("expires_in"):
        lifetime = credentials.expires_in.ToNanoseconds() / 1e9
        first, last = _WINDOW
        ahead = answer.asked_at + lifetime * (first + (last - first) * random())
        refresh_at = max(ahead, answer.now + _SHORTEST)
    return replace(
        HeldCredential.of(token),
        refresh_at=refresh_at,
        # Counted from before the request was sent, so that the answer's way here is never added to its life.
        expires_at=answer.asked_at + lifetime,
        lifetime=lifetime,
        refresh_token=credentials.refresh_token,
        session_id=credentials.session_id or None,
        ending=before is not None and lifetime < before.lifetime / 2,
    )
