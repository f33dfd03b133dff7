"""The open streams of a node, and ending them when their credential ends, or can no longer be known to be good."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
from collections.abc import Callable, Iterable
from typing import Final

from interceptors.clock import ticks
from interceptors.errors import Reason, Refusal
from interceptors.verification.verifier import KeyRevoked, VerifiedCredential

__all__ = ["OpenCall", "OpenCalls"]

_log: Final = logging.getLogger("credmesh.calls")

_LOOK_AGAIN: Final = 1.0
"""Seconds. A wait stands still while the machine sleeps; deadlines do not."""
_A_LITTLE: Final = 0.001


class OpenCall:
    """One open stream.

    method     its full method name
    verified   the credential that opened it
    deadline   when it ends with its credential, by interceptors.clock
    following  whether it may outlive its token as long as the session lives
    freshness  seconds: it ends when the node's knowledge of revocations is older. None: any age will do
    """

    __slots__ = ("deadline", "end", "ended", "following", "freshness", "method", "verified")

    def __init__(
        self,
        method: str,
        verified: VerifiedCredential,
        deadline: float,
        *,
        following: bool,
        end: Callable[[Refusal], None],
        freshness: float | None = None,
    ) -> None:
        self.method = method
        self.verified = verified
        self.deadline = deadline
        self.following = following
        self.freshness = freshness
        self.end = end  # must return at once: thousands are ended in a row
        self.ended = False


class OpenCalls:
    """All open streams, found by revocation scope and by deadline. Thread-safe.

    proven_at  tells when the node last proved how fresh it is (see TrustBundle); None for never

    Ending is the part of each server's adapter; it is called outside the lock, from the thread that noticed.
    """

    def __init__(self, proven_at: Callable[[], float | None] = lambda: None) -> None:
        self._proven_at = proven_at
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._calls: set[OpenCall] = set()
        self._by_scope: dict[str, set[OpenCall]] = {}
        self._strict: dict[float, set[OpenCall]] = {}
        self._deadlines: list[tuple[float, int, OpenCall]] = []
        self._sequence = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: OpenCall) -> None:
        """Keeps a stream. The caller then rechecks its credential: an epoch may have passed by in between.

        RuntimeError if the process can have no thread that watches its end.
        """
        with self._lock:
            if self._thread is None and not self._stopped:
                # First: without it nobody would end the stream in time, so if it cannot be had, neither can the stream.
                thread = threading.Thread(target=self._watch_deadlines, name="credmesh-deadlines", daemon=True)
                thread.start()
                self._thread = thread
            self._calls.add(call)
            for scope in call.verified.scopes:
                self._by_scope.setdefault(scope, set()).add(call)
            if call.freshness is not None:
                self._strict.setdefault(call.freshness, set()).add(call)
            heapq.heappush(self._deadlines, (call.deadline, next(self._sequence), call))
            if self._deadlines[0][2] is call or call.freshness is not None:
                self._wake.notify()

    def remove(self, call: OpenCall) -> None:
        """Forgets a stream that has ended by itself."""
        with self._lock:
            self._discard(call)

    def revoke(self, scope: str, epoch: int) -> int:
        """Ends every stream of a scope whose credential is older than `epoch`; returns how many there were.

        Where the scope is a key's, every stream of what the key signed, however new the credential claims to be.
        """
        with self._lock:
            members = self._by_scope.get(scope, ())
            of_key = [call for call in members if call.verified.key_scope == scope]
            found = of_key or [call for call in members if call.verified.caller.epoch < epoch]
            for call in found:
                self._discard(call)
        reason = Reason.KEY_UNKNOWN if of_key else Reason.CREDENTIAL_REVOKED
        return self._end(found, Refusal(reason, f"scope {scope} was revoked at revision {epoch}"))

    def end_all(self, refusal: Refusal) -> int:
        """Ends every stream; returns how many there were."""
        with self._lock:
            found = list(self._calls)
            for call in found:
                self._discard(call)
        return self._end(found, refusal)

    def recheck(self, recheck: Callable[[VerifiedCredential], None], *, now: float, unbroken: bool) -> int:
        """Checks every open stream anew, after keys changed or the mesh was read again; returns how many ended.

        unbroken: whether no event can have been missed. If some may have been, an epoch may have come and leased out
        unseen; a stream whose own token has expired rests on its session alone, and ends in that doubt.
        """
        with self._lock:
            calls = list(self._calls)
        ended = 0
        for call in calls:
            refusal: Refusal | None = None
            try:
                recheck(call.verified)
            except Refusal as found:
                # A retired key's tokens have all expired; a stream that follows its session does not need it any more.
                # Not so where the key was revoked: whoever stole it chose himself when his token was to expire.
                expired = now >= call.verified.usable_until
                retired = found.reason is Reason.KEY_UNKNOWN and not isinstance(found, KeyRevoked)
                if not (retired and call.following and expired):
                    refusal = found
            if refusal is None and not unbroken and now >= call.verified.usable_until:
                refusal = Refusal(Reason.CREDENTIAL_EXPIRED, "events were missed, and the token has expired meanwhile")
            if refusal is not None:
                with self._lock:
                    self._discard(call)
                ended += self._end([call], refusal)
        return ended

    def stop(self) -> None:
        """Ends the thread that watches deadlines. The streams are left to the server's own shutdown."""
        with self._lock:
            self._stopped = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    def _discard(self, call: OpenCall) -> None:
        if call not in self._calls:
            return
        self._calls.discard(call)
        for scope in call.verified.scopes:
            calls = self._by_scope.get(scope)
            if calls is not None:
                calls.discard(call)
                if not calls:
                    del self._by_scope[scope]
        if call.freshness is not None:
            strict = self._strict[call.freshness]
            strict.discard(call)
            if not strict:
                del self._strict[call.freshness]
        call.ended = True
        # Its entry in the heap stays until its time comes; short streams under long tokens would pile up there.
        if len(self._deadlines) > 2 * len(self._calls) + 1000:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].ended]
            heapq.heapify(self._deadlines)

    def _end(self, calls: Iterable[OpenCall], refusal: Refusal) -> int:
        count = 0
        for call in calls:
            count += 1
            try:
                call.end(refusal)
            except Exception:  # noqa: BLE001 - logged, and the others come first
                # One stream that cannot be ended must not keep the others alive.
                _log.exception("could not end a stream of %s", call.method)
        return count

    def _watch_deadlines(self) -> None:
        expired = Refusal(Reason.CREDENTIAL_EXPIRED, "the credential expired while the stream was open")
        stale = Refusal(Reason.MESH_STALE, "the node's knowledge of revocations grew too old while the stream was open")
        while True:
            with self._lock:
                while True:
                    if self._stopped:
                        return
                    now = ticks()
                    over, next_deadline = self._take_expired(now)
                    outdated, next_outdated = self._take_outdated(now)
                    if over or outdated:
                        break
                    self._wake.wait(min(next_deadline, next_outdated, _LOOK_AGAIN) if self._calls else None)
            self._end(over, expired)
            self._end(outdated, stale)

    def _take_expired(self, now: float) -> tuple[list[OpenCall], float]:
        """The streams whose deadline has passed, and the seconds until the next one's."""
        due: list[OpenCall] = []
        while self._deadlines and (self._deadlines[0][2].ended or self._deadlines[0][0] <= now):
            call = heapq.heappop(self._deadlines)[2]
            if not call.ended:
                self._discard(call)
                due.append(call)
        return due, self._deadlines[0][0] - now if self._deadlines else math.inf

    def _take_outdated(self, now: float) -> tuple[list[OpenCall], float]:
        """The streams for which the node is too stale, and the seconds until the next ones are unless it proves itself.

        A stream that a strict method let in must not go on where a call of it would be refused: it may be the very one
        of whose revocation this node cannot know.
        """
        due: list[OpenCall] = []
        wait = math.inf
        proven_at = self._proven_at()
        for freshness, calls in list(self._strict.items()):
            left = -math.inf if proven_at is None else proven_at + freshness - now
            if left < 0:
                due.extend(calls)
            else:
                wait = min(wait, left + _A_LITTLE)
        for call in due:
            self._discard(call)
        return due, wait
