"""The open streams of a node: found by revocation scope and by deadline, and ended when their credential ends.

A stream also ends when its node can no longer know whether the credential is valid.

Streams are opened and closed far more often than scopes are revoked, so opening and closing are kept cheap. A stream is
indexed by the scopes of its subject and its session only. The scopes that many credentials share (client, audience,
signing key, everyone) are revoked seldom, and then all open streams are searched.
"""

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
from interceptors.scopes import is_own_scope
from interceptors.verification.verifier import KeyRevoked, VerifiedCredential

__all__ = ["OpenStream", "OpenStreams"]

_log: Final = logging.getLogger("credmesh.streams")

_POLL_INTERVAL_SECONDS: Final = 1.0
"""The longest wait for a deadline: while the machine sleeps, a wait stands still and a deadline does not."""

_STALENESS_MARGIN_SECONDS: Final = 0.001
_MAX_ENDED_IN_HEAP: Final = 1000


class OpenStream:
    """One open stream.

    method           its full method name
    verified         the credential that opened it
    deadline         when the stream ends with its credential, by interceptors.clock
    follows_session  whether the stream may outlive its token as long as the session lives
    end              ends the call with a refusal; must return at once, because thousands are ended in a row
    freshness        seconds: the stream ends when the node's freshness is above this. None: no limit
    ended            whether the stream is no longer among the open ones
    """

    __slots__ = ("deadline", "end", "ended", "follows_session", "freshness", "method", "verified")

    def __init__(
        self,
        method: str,
        verified: VerifiedCredential,
        deadline: float,
        *,
        follows_session: bool,
        end: Callable[[Refusal], None],
        freshness: float | None = None,
    ) -> None:
        self.method = method
        self.verified = verified
        self.deadline = deadline
        self.follows_session = follows_session
        self.freshness = freshness
        self.end = end
        self.ended = False


class OpenStreams:
    """All open streams of a node. Thread-safe.

    proven_at  returns when the node last proved its freshness (see TrustBundle); None for never

    `OpenStream.end`, which the server's adapter provides, is called outside the lock, in the thread that found the
    cause.
    """

    def __init__(self, proven_at: Callable[[], float | None] = lambda: None) -> None:
        self._proven_at = proven_at
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._streams: set[OpenStream] = set()
        self._by_scope: dict[str, set[OpenStream]] = {}
        self._strict: dict[float, set[OpenStream]] = {}
        self._deadlines: list[tuple[float, int, OpenStream]] = []
        self._sequence = itertools.count()
        self._thread: threading.Thread | None = None
        self._wakes_at = -math.inf  # the time by which the thread looks at the deadlines again, unless it is woken
        self._stopped = False

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: OpenStream) -> None:
        """Adds a stream. The caller then rechecks its credential: an epoch may have come just before it was added.

        RuntimeError if the process cannot start the thread that watches deadlines.
        """
        with self._lock:
            if self._thread is None and not self._stopped:
                # Before the stream is added: without the thread the stream would not end in time.
                thread = threading.Thread(target=self._watch_deadlines, name="credmesh-deadlines", daemon=True)
                thread.start()
                self._thread = thread
            self._streams.add(stream)
            for scope in stream.verified.own_scopes:
                streams = self._by_scope.get(scope)
                if streams is None:
                    self._by_scope[scope] = {stream}
                else:
                    streams.add(stream)
            due = stream.deadline
            heapq.heappush(self._deadlines, (due, next(self._sequence), stream))
            if stream.freshness is not None:
                self._strict.setdefault(stream.freshness, set()).add(stream)
                due = min(due, self._stale_at(stream.freshness))
            # Waking the thread for every stream would cost more than everything else that is done here.
            if due < self._wakes_at:
                self._wake.notify()

    def remove(self, stream: OpenStream) -> None:
        """Removes a stream that is over."""
        with self._lock:
            if self._discard(stream):
                # The heap keeps this object for a while. It must not keep the call's context and messages as well.
                stream.end = _ignore

    def revoke(self, scope: str, epoch: int) -> int:
        """Ends every stream of a scope whose credential is older than `epoch`; returns how many there were.

        If the scope is a signing key's, ends every stream whose token the key signed, whatever epoch the token claims.
        """
        with self._lock:
            if is_own_scope(scope):
                members = list(self._by_scope.get(scope, ()))
            else:
                members = [stream for stream in self._streams if scope in stream.verified.scopes]
            of_key = [stream for stream in members if stream.verified.key_scope == scope]
            revoked = of_key or [stream for stream in members if stream.verified.caller.epoch < epoch]
            for stream in revoked:
                self._discard(stream)
        reason = Reason.KEY_UNKNOWN if of_key else Reason.CREDENTIAL_REVOKED
        return self._end(revoked, Refusal(reason, f"scope {scope} was revoked at revision {epoch}"))

    def end_all(self, refusal: Refusal) -> int:
        """Ends every stream; returns how many there were."""
        with self._lock:
            streams = list(self._streams)
            for stream in streams:
                self._discard(stream)
        return self._end(streams, refusal)

    def recheck(self, recheck: Callable[[VerifiedCredential], None], *, now: float, unbroken: bool) -> int:
        """Checks every open stream again, after keys changed or the mesh was read again; returns how many ended.

        now       seconds since 1970
        unbroken  whether no event can have been missed. If one may have been, an epoch may have come and its lease may
                  have ended unseen. A stream whose own token has expired depends on its session alone, so it ends
        """
        with self._lock:
            streams = list(self._streams)
        ended = 0
        for stream in streams:
            expired = now >= stream.verified.usable_until
            refusal: Refusal | None = None
            try:
                recheck(stream.verified)
            except Refusal as refused:
                # When a key retires, all its tokens have expired, and a stream that follows its session no longer needs
                # the key. If the key was revoked, the stream ends: a thief of the key chose the token's expiry.
                retired = refused.reason is Reason.KEY_UNKNOWN and not isinstance(refused, KeyRevoked)
                if not (retired and stream.follows_session and expired):
                    refusal = refused
            if refusal is None and not unbroken and expired:
                refusal = Refusal(Reason.CREDENTIAL_EXPIRED, "events were missed, and the token has expired meanwhile")
            if refusal is not None:
                with self._lock:
                    open_until_now = self._discard(stream)
                if open_until_now:
                    ended += self._end([stream], refusal)
        return ended

    def stop(self) -> None:
        """Ends the thread that watches deadlines. Open streams are left to the server's own shutdown."""
        with self._lock:
            self._stopped = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    def _discard(self, stream: OpenStream) -> bool:
        """Removes a stream from all indices, the heap excepted. Returns whether it was there."""
        if stream.ended or stream not in self._streams:
            return False
        stream.ended = True
        self._streams.discard(stream)
        for scope in stream.verified.own_scopes:
            streams = self._by_scope[scope]
            streams.discard(stream)
            if not streams:
                del self._by_scope[scope]
        if stream.freshness is not None:
            strict = self._strict[stream.freshness]
            strict.discard(stream)
            if not strict:
                del self._strict[stream.freshness]
        # The heap keeps the stream until its deadline. Short streams under long tokens would pile up there.
        if len(self._deadlines) > 2 * len(self._streams) + _MAX_ENDED_IN_HEAP:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].ended]
            heapq.heapify(self._deadlines)
        return True

    def _end(self, streams: Iterable[OpenStream], refusal: Refusal) -> int:
        count = 0
        for stream in streams:
            count += 1
            try:
                stream.end(refusal)
            except Exception:  # noqa: BLE001 - logged; a stream that cannot be ended must not keep the others open
                _log.exception("could not end a stream of %s", stream.method)
        return count

    def _watch_deadlines(self) -> None:
        expired = Refusal(Reason.CREDENTIAL_EXPIRED, "the credential expired while the stream was open")
        too_stale = Refusal(Reason.MESH_STALE, "the node became too stale for the method while the stream was open")
        while True:
            with self._lock:
                while True:
                    if self._stopped:
                        return
                    now = ticks()
                    past_deadline, next_deadline = self._remove_expired(now)
                    stale_streams, next_stale = self._remove_stale(now)
                    if past_deadline or stale_streams:
                        break
                    if self._streams:
                        wait = min(next_deadline, next_stale, _POLL_INTERVAL_SECONDS)
                        self._wakes_at = now + wait
                        self._wake.wait(wait)
                    else:
                        self._wakes_at = math.inf  # the next stream wakes the thread
                        self._wake.wait()
            self._end(past_deadline, expired)
            self._end(stale_streams, too_stale)

    def _remove_expired(self, now: float) -> tuple[list[OpenStream], float]:
        """Removes the streams whose deadline has passed. Returns them, and the seconds until the next deadline."""
        due: list[OpenStream] = []
        while self._deadlines and (self._deadlines[0][2].ended or self._deadlines[0][0] <= now):
            stream = heapq.heappop(self._deadlines)[2]
            if self._discard(stream):
                due.append(stream)
        return due, self._deadlines[0][0] - now if self._deadlines else math.inf

    def _remove_stale(self, now: float) -> tuple[list[OpenStream], float]:
        """Removes the streams for which the node is too stale.

        Returns them, and the seconds until the node is too stale for the next ones, unless it proves its freshness.

        A stream of a strict method must not go on where a call of that method would be refused: the node may be cut off
        from the revocation that ends the stream.
        """
        due: list[OpenStream] = []
        wait = math.inf
        for freshness, streams in list(self._strict.items()):
            stale_at = self._stale_at(freshness)
            if stale_at < now:
                due.extend(streams)
            else:
                wait = min(wait, stale_at + _STALENESS_MARGIN_SECONDS - now)
        for stream in due:
            self._discard(stream)
        return due, wait

    def _stale_at(self, freshness: float) -> float:
        """When the node becomes too stale for a strict method, unless it proves its freshness until then."""
        proven_at = self._proven_at()
        return -math.inf if proven_at is None else proven_at + freshness


def _ignore(_refusal: Refusal) -> None:
    """Ends nothing: the stream is over."""
