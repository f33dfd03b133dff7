"""What one set of credentials holds, and what is due at a given moment. Without a clock, a lock or a thread."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import grpc

from interceptors.client.renewal import (
    HeldCredential,
    NoCredential,
    Random,
    Renewable,
    RenewalFailure,
    RenewalFlow,
    renewal,
)
from interceptors.client.sources import RefreshTokenLogin

__all__ = ["CredentialState"]

_BACKOFF: Final = (1.0, 60.0)  # seconds after a failed renewal: the first, doubled each time, and the longest
_BURST: Final = 20.0  # renewals at once because servers refused; one more comes back each second

_FORKED: Final = RenewalFailure(
    grpc.StatusCode.FAILED_PRECONDITION,
    "this process was forked from the one that holds the session, and a refresh token is good for one of them only; "
    "make the credentials after the fork",
)


@dataclass(frozen=True, slots=True)
class _Setback:
    failure: RenewalFailure
    failures: int
    retry_at: float


class CredentialState:
    """The credential in hand and the renewals behind it. Whoever drives it guards it against other threads.

    held     what is held now; replaced as a whole
    used     whether a call was sent with it. An unused credential lapses, so that an idle client's session can time out
    streams  how many streams are open. They keep the session alive: it may be all that they live by
    """

    __slots__ = ("_allowance", "_allowance_at", "_random", "_setback", "held", "source", "streams", "used")

    def __init__(self, source: Renewable, *, random: Random) -> None:
        self.source = source
        self.held: HeldCredential | None = None
        self.used = False
        self.streams = 0
        self._random = random
        self._setback: _Setback | None = None
        self._allowance = _BURST
        self._allowance_at = -math.inf

    def settled(self, stale: HeldCredential | None, now: float) -> HeldCredential | None:
        """What a caller gets without a renewal, in place of `stale` (None: nothing was held); None if it needs one.

        NoCredential, at once, while a refusal of the auth service is fresh: asking again would only use up the attempts
        that an account has.
        """
        held = self.held
        if held is not None and held is not stale and now < held.expires_at:
            return held
        setback = self._setback
        if setback is not None and not setback.failure.transient and now < setback.retry_at:
            raise NoCredential(setback.failure)
        return None

    def may_follow_refusal(self, now: float) -> bool:
        """Whether a refused call may cause one more renewal now.

        A server that refuses everything must not make each call to it a request to the auth service.
        """
        self._allowance = min(_BURST, self._allowance + (now - self._allowance_at))
        self._allowance_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def due(self, now: float) -> float | None:
        """In how many seconds to look again whether to renew in the background: 0 is now, None is never.

        Never also means: not before the next call, which asks for itself.
        """
        held = self.held
        if held is None:
            return None
        at = held.refresh_at if self._setback is None else max(held.refresh_at, self._setback.retry_at)
        if math.isinf(at):
            return None
        if now < at:
            return at - now
        if self.streams or (self.used and now < held.expires_at):
            return 0.0
        return None

    def renewal(self) -> RenewalFlow:
        """The renewal that follows from what is held."""
        return renewal(self.source, self.held, random=self._random)

    def succeeded(self, held: HeldCredential) -> bool:
        """A renewal gave this. Says whether it ends a row of failures."""
        recovered = self._setback is not None
        self.held = held
        self.used = False
        self._setback = None
        return recovered

    def failed(self, failure: RenewalFailure, now: float) -> bool:
        """A renewal failed; what is held is used until it expires. Says whether this begins a row of failures."""
        failures = 1 if self._setback is None else self._setback.failures + 1
        if failure.refused and isinstance(self.source, RefreshTokenLogin):
            retry_at = math.inf  # the session is over, and nothing here can begin another
        else:
            first, longest = _BACKOFF
            retry_at = now + min(longest, first * 2 ** min(failures - 1, 16)) * (0.5 + self._random())
        self._setback = _Setback(failure, failures, retry_at)
        return failures == 1

    def forked(self) -> None:
        """This process is a fork's child. Its parent goes on with the session, whose refresh token works only once."""
        if self.held is not None:
            self.held = replace(self.held, refresh_token="")
        self.streams = 0
        if isinstance(self.source, RefreshTokenLogin):
            self._setback = _Setback(_FORKED, 1, math.inf)
