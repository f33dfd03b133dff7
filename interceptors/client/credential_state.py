"""The state of one set of credentials, and what is due at a given time. Without a clock, a lock or a thread."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import grpc

from interceptors.backoff import Backoff
from interceptors.client.failed_call import CLOSED
from interceptors.client.renewal import (
    HeldCredential,
    NoCredential,
    Random,
    Renewable,
    RenewalFailure,
    RenewalFlow,
    renew,
)
from interceptors.client.sources import RefreshTokenLogin

__all__ = ["CredentialState"]

_FIRST_BACKOFF_SECONDS: Final = 1.0
_LONGEST_BACKOFF_SECONDS: Final = 60.0
_MAX_REFUSAL_RENEWALS: Final = 20.0  # at once, because servers refused calls
_REFUSAL_RENEWALS_PER_SECOND: Final = 1.0

_FORKED: Final = RenewalFailure(
    grpc.StatusCode.FAILED_PRECONDITION,
    "this process was forked from the one that holds the session, and a refresh token works in one process only; "
    "make the credentials after the fork",
)


@dataclass(frozen=True, slots=True)
class _LastFailure:
    failure: RenewalFailure
    retry_at: float


class CredentialState:
    """The credential that is held, and the renewals that follow it. Its driver guards it against other threads.

    held          the credential; replaced as a whole
    used          whether a call was sent with it. An unused credential lapses, so that an idle client's session can
                  time out
    open_streams  how many streams are open. A session with open streams is renewed without further calls: the streams
                  may be its only use
    closed        whether `close` was called
    """

    __slots__ = (
        "_allowance",
        "_allowance_at",
        "_backoff",
        "_last_failure",
        "_random",
        "_refused",
        "closed",
        "held",
        "open_streams",
        "source",
        "used",
    )

    def __init__(self, source: Renewable, *, random: Random) -> None:
        self.source = source
        self.held: HeldCredential | None = None
        self.used = False
        self.open_streams = 0
        self.closed = False
        self._random = random
        self._backoff = Backoff(_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS)
        self._last_failure: _LastFailure | None = None
        self._refused: HeldCredential | None = None  # what `held` was before `mark_refused`
        self._allowance = _MAX_REFUSAL_RENEWALS
        self._allowance_at = -math.inf

    def usable_credential(self, now: float, *, other_than: HeldCredential | None = None) -> HeldCredential | None:
        """Returns the held credential if it can be sent now; None if a renewal is needed first.

        other_than: the credential that a server refused, which is not returned again. Raises NoCredential after `close`
        and for some time after the auth service refused: another request would only use up the account's attempts.
        """
        if self.closed:
            raise NoCredential(CLOSED)
        held = self.held
        if held is not None and held is not other_than and now < held.expires_at:
            return held
        last = self._last_failure
        if last is not None and not last.failure.transient and now < last.retry_at:
            raise NoCredential(last.failure)
        return None

    def spend_refusal_allowance(self, now: float) -> bool:
        """Takes one from the number of renewals that refused calls may cause. False if none is left.

        A server that refuses every call must not cause a request to the auth service for each of them.
        """
        earned = (now - self._allowance_at) * _REFUSAL_RENEWALS_PER_SECOND
        self._allowance = min(_MAX_REFUSAL_RENEWALS, self._allowance + earned)
        self._allowance_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def mark_refused(self, refused: HeldCredential, now: float, *, renewing: bool) -> None:
        """Has the next call wait for a new credential: a server refused this one in a call that is not repeated.

        renewing: whether a renewal is under way. Otherwise the credential stays if refused calls have caused too many
        renewals already. If the renewal gets no answer, calls are sent with the refused credential again.
        """
        if self.held is not refused or not (renewing or self.spend_refusal_allowance(now)):
            return
        self._refused = refused
        self.held = replace(refused, refresh_at=now, expires_at=now)

    def seconds_until_renewal(self, now: float) -> float | None:
        """Returns in how many seconds the background renewal is due: 0 is now; None is not before the next call."""
        held = self.held
        if held is None:
            return None
        last = self._last_failure
        due_at = held.refresh_at if last is None else max(held.refresh_at, last.retry_at)
        if math.isinf(due_at):
            return None
        if now < due_at:
            return due_at - now
        if self.open_streams or (self.used and now < held.expires_at):
            return 0.0
        return None

    def renewal_flow(self) -> RenewalFlow:
        """Returns the steps of the next renewal."""
        return renew(self.source, self.held, random=self._random)

    def record_outcome(self, outcome: HeldCredential | Exception, now: float) -> bool:
        """Records how a renewal ended. Returns whether it starts or ends a series of failures.

        After a failure the held credential is used until it expires. After `close` no new credential is taken.
        """
        if isinstance(outcome, NoCredential):
            return self._record_failure(outcome.failure, now)
        if not isinstance(outcome, HeldCredential) or self.closed:
            return False
        recovered = self._last_failure is not None
        self.held = outcome
        self._refused = None
        self.used = False
        self._last_failure = None
        self._backoff.reset()
        return recovered

    def _record_failure(self, failure: RenewalFailure, now: float) -> bool:
        first = self._last_failure is None
        if failure.refused and isinstance(self.source, RefreshTokenLogin):
            retry_at = math.inf  # the session has ended, and a refresh token cannot start another
        else:
            retry_at = now + self._backoff.next_delay(self._random)
        self._last_failure = _LastFailure(failure, retry_at)
        refused, self._refused = self._refused, None
        if refused is not None and self.held is not None and not failure.refused:
            self.held = refused
        return first

    def stream_began(self) -> None:
        """Counts an open stream."""
        self.open_streams += 1

    def stream_ended(self) -> None:
        """Counts a stream that ended. After a fork, streams of the parent end without having been counted."""
        self.open_streams = max(0, self.open_streams - 1)

    def close(self) -> None:
        """Drops the credential."""
        self.closed = True
        self.held = None

    def reset_after_fork(self) -> None:
        """Leaves the session to the parent, since its refresh token works only once."""
        if self.held is not None:
            self.held = replace(self.held, refresh_token="")
        self._refused = None
        self.open_streams = 0
        if isinstance(self.source, RefreshTokenLogin):
            self._last_failure = _LastFailure(_FORKED, math.inf)
