"""Lookups on behalf of a call: a key or a revision in etcd, a session at the auth service.

Hostile credentials must not make a node flood etcd or the auth service. So calls that need the same answer share one
lookup, the number of pending lookups is bounded, and what was found missing is not looked up again for a while. Session
lookups have separate threads and bounds: session tokens are easy to invent, and a flood of them must not delay what
access tokens need.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Final

from credmesh.auth.v1 import auth_pb2
from interceptors.errors import Reason, Refusal
from interceptors.verification.cache import TwoGenerationCache
from interceptors.verification.session_resolver import SessionResolver
from interceptors.verification.verifier import Need, NeedKey, NeedRevision, VerificationFlow, VerifiedCredential

__all__ = ["LOOKUP_TIMEOUT_SECONDS", "LookupResult", "LookupService"]

LookupResult = auth_pb2.ResolveSessionResponse | None

_log: Final = logging.getLogger("credmesh.lookups")

LOOKUP_TIMEOUT_SECONDS: Final = 6.0
"""How long a call waits for a lookup at most."""

_MAX_THREADS: Final = 8
_MAX_PENDING_LOOKUPS: Final = 256
_KEY_LOOKUPS_PER_SECOND: Final = 5.0
_MAX_KEY_LOOKUP_BURST: Final = 10.0
_MAX_REMEMBERED_ANSWERS: Final = 10_000
_REMEMBERED_ANSWER_SECONDS: Final = 2.0
_MAX_LOGGED_FAULTS: Final = 100


class LookupService:
    """Answers the needs of a verification (`interceptors.verification.verifier.Need`).

    fetch_key       adds one key to the bundle, if etcd has it; raises Refusal if etcd does not answer
    resolver        resolves opaque sessions; None if this node refuses them
    check_revision  finds out whether etcd has reached a revision; may raise Refusal
    """

    def __init__(
        self,
        fetch_key: Callable[[str], None],
        resolver: SessionResolver | None,
        check_revision: Callable[[int], None] = lambda _revision: None,
    ) -> None:
        self._fetch_key = fetch_key
        self._resolver = resolver
        self._check_revision = check_revision
        self._etcd_lookups = _SingleFlight("credmesh-lookup")
        self._session_lookups = _SingleFlight("credmesh-session-lookup")
        self._lock = threading.Lock()
        self._key_lookup_allowance = _MAX_KEY_LOOKUP_BURST
        self._allowance_updated_at = time.monotonic()
        self._logged_faults: set[str] = set()

    def look_up(self, need: Need) -> Future[LookupResult]:
        """Starts or joins the lookup of what is needed, and returns its future answer, which may be a Refusal.

        Raises Refusal RATE_LIMITED if too many lookups are pending.
        """
        if isinstance(need, NeedKey):
            return self._etcd_lookups.look_up(
                "key " + need.kid, lambda: self._look_up_key(need.kid), self._take_key_lookup_allowance
            )
        if isinstance(need, NeedRevision):
            # Named by the revision: a pending lookup began when a credential of that revision existed already, so its
            # answer is new enough for this call.
            return self._etcd_lookups.look_up(
                f"revision {need.revision}", lambda: self._look_up_revision(need.revision)
            )
        name = f"{need.request.session_id} {need.request.secret_sha256.hex()}"
        return self._session_lookups.look_up(name, lambda: self._look_up_session(need.request))

    def run(self, flow: VerificationFlow) -> VerifiedCredential:
        """Runs a verification, and blocks while it needs a lookup. Raises Refusal."""
        try:
            need = next(flow)
            while True:
                need = flow.send(self.look_up(need).result(LOOKUP_TIMEOUT_SECONDS))
        except StopIteration as done:
            verified: VerifiedCredential = done.value
            return verified
        except (TimeoutError, CancelledError):
            raise _no_answer() from None
        except Refusal:
            raise
        except Exception as error:
            raise self._refuse_for_fault(error) from error

    def begin(self, flow: VerificationFlow) -> Need | None:
        """Runs a verification until it needs a lookup. Returns the need, or None if it is done. Raises Refusal."""
        try:
            return next(flow)
        except StopIteration:
            return None
        except Refusal:
            raise
        except Exception as error:
            raise self._refuse_for_fault(error) from error

    def go_on(self, flow: VerificationFlow, need: Need, decided: Callable[[Refusal | None], None]) -> None:
        """Goes on with a verification that has begun, without blocking.

        decided: called with the refusal, or with None if the credential is verified and cached; in this thread or in
                 one of the lookups'. Not called again if a lookup does not end
        """

        def take(answer: Future[LookupResult]) -> None:
            try:
                self.go_on(flow, flow.send(answer.result()), decided)
            except StopIteration:
                decided(None)
            except Refusal as refusal:
                decided(refusal)
            except CancelledError:
                decided(_no_answer())
            except Exception as error:  # noqa: BLE001 - logged, and a refusal
                decided(self._refuse_for_fault(error))

        try:
            answer = self.look_up(need)
        except Refusal as refusal:
            decided(refusal)
        else:
            answer.add_done_callback(take)

    async def run_async(self, flow: VerificationFlow) -> VerifiedCredential:
        """Runs a verification without blocking the event loop. Raises Refusal."""
        try:
            need = next(flow)
            while True:
                # Shielded, since other calls may wait for the same lookup when this one is cancelled.
                answer = asyncio.shield(asyncio.wrap_future(self.look_up(need)))
                need = flow.send(await asyncio.wait_for(answer, LOOKUP_TIMEOUT_SECONDS))
        except StopIteration as done:
            verified: VerifiedCredential = done.value
            return verified
        except TimeoutError:
            raise _no_answer() from None
        except Refusal:
            raise
        except Exception as error:
            raise self._refuse_for_fault(error) from error

    def stop(self) -> None:
        """Ends the threads. Lookups that have not started are cancelled."""
        self._etcd_lookups.stop()
        self._session_lookups.stop()

    def _look_up_key(self, kid: str) -> tuple[LookupResult, bool]:
        self._fetch_key(kid)
        return None, True

    def _look_up_revision(self, revision: int) -> tuple[LookupResult, bool]:
        self._check_revision(revision)
        return None, False

    def _look_up_session(self, request: auth_pb2.ResolveSessionRequest) -> tuple[LookupResult, bool]:
        if self._resolver is None:
            raise Refusal(Reason.CREDENTIAL_INVALID, "this node has no resolver for opaque sessions")
        answer = self._resolver.resolve(request)
        return answer, answer.refusal == Reason.CREDENTIAL_INVALID.name

    def _take_key_lookup_allowance(self) -> bool:
        # One bound for all key ids, since a kid is easy to invent. A valid token that exceeds the bound is refused with
        # KEY_UNKNOWN; its client refreshes and retries.
        with self._lock:
            now = time.monotonic()
            self._key_lookup_allowance = min(
                _MAX_KEY_LOOKUP_BURST,
                self._key_lookup_allowance + (now - self._allowance_updated_at) * _KEY_LOOKUPS_PER_SECOND,
            )
            self._allowance_updated_at = now
            if self._key_lookup_allowance < 1.0:
                return False
            self._key_lookup_allowance -= 1.0
            return True

    def _refuse_for_fault(self, error: Exception) -> Refusal:
        """Logs an unexpected error, and returns the refusal for it: MESH_STALE, no verdict on the credential."""
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        at = "" if where is None else f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
        what = f"{type(error).__name__} at {at}"
        with self._lock:
            # Each fault is logged once, since an attacker may cause it in every call. The audit log has every call.
            new = what not in self._logged_faults and len(self._logged_faults) < _MAX_LOGGED_FAULTS
            if new:
                self._logged_faults.add(what)
        if new:
            _log.error("a credential could not be verified, and was refused; this is a bug", exc_info=error)
        # Without the error's text, which may quote the credential.
        return Refusal(Reason.MESH_STALE, f"the credential could not be verified: {what}")


class _SingleFlight:
    """Runs lookups in its own threads. Lookups of the same name share one, and the number of pending ones is bounded.

    A lookup is a function that returns its answer, and whether the answer is to be remembered for a while.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._pending: dict[str, Future[LookupResult]] = {}
        # Remembered answers, each with the time in monotonic seconds at which it is forgotten.
        self._remembered: TwoGenerationCache[tuple[float, LookupResult]] = TwoGenerationCache(_MAX_REMEMBERED_ANSWERS)

    def look_up(
        self, name: str, lookup: Callable[[], tuple[LookupResult, bool]], may_start: Callable[[], bool] = lambda: True
    ) -> Future[LookupResult]:
        """Starts or joins a lookup. may_start: whether a new lookup may start now; if not, the answer is None.

        Raises Refusal RATE_LIMITED if too many lookups are pending.
        """
        remembered = self._remembered.get(name)
        if remembered is not None and time.monotonic() < remembered[0]:
            return _answered(remembered[1])
        with self._lock:
            future = self._pending.get(name)
            if future is not None:
                return future
            if not may_start():
                return _answered(None)
            if len(self._pending) >= _MAX_PENDING_LOOKUPS:
                raise Refusal(Reason.RATE_LIMITED, f"{_MAX_PENDING_LOOKUPS} lookups are pending already")
            future = self._pool.submit(self._run, name, lookup)
            self._pending[name] = future
        # Outside the lock: if the future is done already, the callback runs at once in this thread.
        future.add_done_callback(lambda _: self._remove_pending(name))
        return future

    def stop(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, name: str, lookup: Callable[[], tuple[LookupResult, bool]]) -> LookupResult:
        answer, remember = lookup()
        if remember:
            self._remembered.put(name, (time.monotonic() + _REMEMBERED_ANSWER_SECONDS, answer))
        return answer

    def _remove_pending(self, name: str) -> None:
        with self._lock:
            self._pending.pop(name, None)


def _no_answer() -> Refusal:
    return Refusal(Reason.MESH_STALE, "etcd or the auth service did not answer the lookup in time")


def _answered(answer: LookupResult) -> Future[LookupResult]:
    future: Future[LookupResult] = Future()
    future.set_result(answer)
    return future
