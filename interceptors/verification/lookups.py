"""Asking others on behalf of a call: etcd for a key, the auth service for a session.

Callers that need the same answer share one request, the number of requests under way is bounded, and what was just
found not to exist is not asked for again: hostile credentials must not turn a node into a burden on its mesh. Sessions
are asked for apart from what tokens need: anybody can make up as many of them as he likes, and holds up no token.
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

__all__ = ["LookupResult", "LookupService"]

LookupResult = auth_pb2.ResolveSessionResponse | None

_log: Final = logging.getLogger("credmesh.asking")

_TIMEOUT: Final = 6.0
_THREADS: Final = 8
_MOST_UNDER_WAY: Final = 256
_KEYS_PER_SECOND: Final = 5.0
_KEYS_AT_ONCE: Final = 10.0
_REMEMBERED: Final = 10_000
_REMEMBERED_SECONDS: Final = 2.0
_MOST_TOLD: Final = 100


class LookupService:
    """Answers what a verification flow needs (`interceptors.verification.verifier.Need`).

    fetch_key     reads one key from etcd into the bundle; Refusal if nobody can say whether it is there
    resolver      resolves opaque sessions; None if this node does not take them
    ask_revision  asks etcd whether it has reached a revision; it may raise Refusal
    """

    def __init__(
        self,
        fetch_key: Callable[[str], None],
        resolver: SessionResolver | None,
        ask_revision: Callable[[int], None] = lambda _revision: None,
    ) -> None:
        self._fetch_key = fetch_key
        self._resolver = resolver
        self._ask_revision = ask_revision
        self._mesh = _SingleFlight("credmesh-ask")
        self._sessions = _SingleFlight("credmesh-ask-session")
        self._lock = threading.Lock()
        self._allowance = _KEYS_AT_ONCE
        self._allowed_at = time.monotonic()
        self._told: set[str] = set()

    def ask(self, need: Need) -> Future[LookupResult]:
        """The answer, to be waited for. It may raise Refusal: at once if too much is under way."""
        if isinstance(need, NeedKey):
            return self._mesh.ask("key " + need.kid, lambda: self._ask_for_key(need.kid), self._may_ask_for_key)
        if isinstance(need, NeedRevision):
            # By the revision: a question that is under way was asked after this very revision had been reached.
            return self._mesh.ask(f"revision {need.revision}", lambda: self._ask_for_revision(need.revision))
        name = f"{need.request.session_id} {need.request.secret_sha256.hex()}"
        return self._sessions.ask(name, lambda: self._ask_for_session(need.request))

    def run(self, flow: VerificationFlow) -> VerifiedCredential:
        """Drives a verification flow to its end, waiting where it must. Raises Refusal."""
        try:
            need = next(flow)
            while True:
                need = flow.send(self.ask(need).result(_TIMEOUT))
        except StopIteration as done:
            verified: VerifiedCredential = done.value
            return verified
        except (TimeoutError, CancelledError):
            raise _no_answer() from None
        except Refusal:
            raise
        except Exception as error:
            raise self._denied(error) from error

    async def run_async(self, flow: VerificationFlow) -> VerifiedCredential:
        """As `run`, without blocking the event loop."""
        try:
            need = next(flow)
            while True:
                # Shielded: others may wait for the same answer when this call is cancelled.
                answer = asyncio.shield(asyncio.wrap_future(self.ask(need)))
                need = flow.send(await asyncio.wait_for(answer, _TIMEOUT))
        except StopIteration as done:
            verified: VerifiedCredential = done.value
            return verified
        except TimeoutError:
            raise _no_answer() from None
        except Refusal:
            raise
        except Exception as error:
            raise self._denied(error) from error

    def stop(self) -> None:
        """Ends the threads. Whoever still waits gets a CancelledError."""
        self._mesh.stop()
        self._sessions.stop()

    def _ask_for_key(self, kid: str) -> tuple[LookupResult, bool]:
        self._fetch_key(kid)
        return None, True

    def _ask_for_revision(self, revision: int) -> tuple[LookupResult, bool]:
        self._ask_revision(revision)
        return None, False

    def _ask_for_session(self, request: auth_pb2.ResolveSessionRequest) -> tuple[LookupResult, bool]:
        if self._resolver is None:
            raise Refusal(Reason.CREDENTIAL_INVALID, "this node is not set up to resolve opaque sessions")
        answer = self._resolver.resolve(request)
        return answer, answer.refusal == Reason.CREDENTIAL_INVALID.name

    def _may_ask_for_key(self) -> bool:
        # A kid is free to invent, so this is a bound for all of them together. Who is turned away here by bad luck is
        # told KEY_UNKNOWN, refreshes, and retries.
        with self._lock:
            now = time.monotonic()
            self._allowance = min(_KEYS_AT_ONCE, self._allowance + (now - self._allowed_at) * _KEYS_PER_SECOND)
            self._allowed_at = now
            if self._allowance < 1.0:
                return False
            self._allowance -= 1.0
            return True

    def _denied(self, error: Exception) -> Refusal:
        """The refusal for an error that nobody expected. The fault is ours, so it is no verdict on the credential."""
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        at = "" if where is None else f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
        what = f"{type(error).__name__} at {at}"
        with self._lock:
            # With its traceback once: whoever found how to cause it may do so for every call. Each has its audit line.
            news = what not in self._told and len(self._told) < _MOST_TOLD
            if news:
                self._told.add(what)
        if news:
            _log.error("a credential could not be verified, and was refused; this is a bug", exc_info=error)
        # Never the error's text, which may quote the credential.
        return Refusal(Reason.MESH_STALE, f"it could not be verified: {what}")


class _SingleFlight:
    """Asks, with threads and a cap of its own. A question returns its answer, and whether to remember that."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[LookupResult]] = {}
        # What was not there, and until when (monotonic seconds) that is taken for granted. Only definite answers.
        self._absent: TwoGenerationCache[tuple[float, LookupResult]] = TwoGenerationCache(_REMEMBERED)

    def ask(
        self, name: str, question: Callable[[], tuple[LookupResult, bool]], may_ask: Callable[[], bool] = lambda: True
    ) -> Future[LookupResult]:
        """See LookupService.ask. name: the lookup's. may_ask: whether a new request may be made now."""
        known = self._absent.get(name)
        if known is not None and time.monotonic() < known[0]:
            return _answered(known[1])
        with self._lock:
            future = self._under_way.get(name)
            if future is not None:
                return future
            if not may_ask():
                return _answered(None)
            if len(self._under_way) >= _MOST_UNDER_WAY:
                raise Refusal(Reason.RATE_LIMITED, f"{_MOST_UNDER_WAY} credentials are being asked about already")
            future = self._pool.submit(self._answer, name, question)
            self._under_way[name] = future
        # Outside the lock: a future that is done already calls back at once, in this thread.
        future.add_done_callback(lambda _: self._forget(name))
        return future

    def stop(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, name: str, question: Callable[[], tuple[LookupResult, bool]]) -> LookupResult:
        answer, definite = question()
        if definite:
            self._absent.put(name, (time.monotonic() + _REMEMBERED_SECONDS, answer))
        return answer

    def _forget(self, name: str) -> None:
        with self._lock:
            self._under_way.pop(name, None)


def _no_answer() -> Refusal:
    return Refusal(Reason.MESH_STALE, "what the credential rests on could not be asked for in time")


def _answered(answer: LookupResult) -> Future[LookupResult]:
    future: Future[LookupResult] = Future()
    future.set_result(answer)
    return future
