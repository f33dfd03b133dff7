"""Renewing credentials in the background: the sync driver of the flow.

One thread makes all requests to the auth service, so that there is never more than one at a time. It lives while there
is something to renew: it starts with the first call, and ends when the credential lapses unused.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

import grpc

from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.client.credential_state import CredentialState
from interceptors.client.failed_call import CLOSED
from interceptors.client.forks import tell_of_forks
from interceptors.client.renewal import Granted, HeldCredential, NoCredential, Pause, Renewable, RenewalFailure

__all__ = ["Renewer", "Rotated", "log_outcome"]

_log: Final = logging.getLogger("credmesh.client")

_TIMEOUT: Final = 5.0  # seconds for one request to the auth service
_JOIN: Final = 5.0

Rotated = Callable[[auth_pb2.Credentials], None]


def log_outcome(outcome: HeldCredential | Exception, *, turned: bool) -> None:
    """Logs how a renewal ended: aloud where a row of failures begins or ends, what is between for debugging."""
    if isinstance(outcome, HeldCredential):
        if turned:
            _log.info("the credential is renewed again")
    elif isinstance(outcome, NoCredential):
        level = logging.WARNING if turned else logging.DEBUG
        _log.log(level, "no new credential (%s): %s", outcome.failure.code.name, outcome.failure.details)
    else:
        _log.error("renewing the credential failed unexpectedly", exc_info=outcome)


class Renewer:
    """Holds a credential and keeps it fresh. Thread-safe."""

    def __init__(self, source: Renewable, auth: grpc.Channel, on_rotate: Rotated | None) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(auth)
        self._on_rotate = on_rotate
        self._keeping = CredentialState(source, random=random.random)
        self._wake = threading.Condition()
        self._flight: Future[HeldCredential] | None = None
        self._thread: threading.Thread | None = None
        self._request: Any = None
        self._closed = False
        tell_of_forks(self)

    def current(self) -> HeldCredential | None:
        """What can be sent now, without waiting; None if there is nothing."""
        held = self._keeping.held
        if held is None:
            return None
        now = time.monotonic()
        if now < held.refresh_at:
            self._keeping.used = True
            return held
        if now >= held.expires_at:
            return None
        with self._wake:
            self._keeping.used = True
            if self._keeping.due(now) == 0 and not self._closed:
                self._start()
        return held

    def obtain(self, stale: HeldCredential | None, *, refused: bool = False) -> Future[HeldCredential] | None:
        """Something better than `stale`, from the one renewal that everybody waits for.

        refused: a server did not accept `stale`. None if that has set off too many renewals already.
        """
        done: Future[HeldCredential] = Future()
        with self._wake:
            now = time.monotonic()
            if self._closed:
                done.set_exception(NoCredential(CLOSED))
                return done
            try:
                held = self._keeping.settled(stale, now)
            except NoCredential as unobtained:
                if self._flight is None:
                    done.set_exception(unobtained)
                    return done
                return self._flight
            if held is not None:
                done.set_result(held)
                return done
            if self._flight is None:
                if refused and not self._keeping.may_follow_refusal(now):
                    return None
                self._start()
                self._flight = Future()
                self._wake.notify()
            return self._flight

    def used(self) -> None:
        """What `obtain` gave is sent."""
        self._keeping.used = True

    def stream_began(self) -> None:
        """A stream was opened: its session has to go on."""
        with self._wake:
            self._keeping.streams += 1

    def stream_ended(self) -> None:
        """A stream is over."""
        with self._wake:
            self._keeping.streams = max(0, self._keeping.streams - 1)

    @property
    def session_id(self) -> str | None:
        """The session behind the credential in hand."""
        held = self._keeping.held
        return None if held is None else held.session_id

    def close(self) -> None:
        """Forgets the credential; a renewal under way is given up. Calls that wait for it, and later ones, fail."""
        with self._wake:
            self._closed = True
            self._keeping.held = None
            thread, request = self._thread, self._request
            self._wake.notify()
        if request is not None:
            request.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN)

    def forked(self) -> None:
        """See Forkable: the thread is the parent's, and its lock may have been held."""
        self._wake = threading.Condition()
        self._flight = None
        self._thread = None
        self._request = None
        self._keeping.forked()

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="credmesh-renewal", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while (flight := self._next_flight()) is not None:
            try:
                outcome: HeldCredential | Exception = self._renew()
            except Exception as error:  # noqa: BLE001 - whatever it is, calls wait for it: they get it
                outcome = error
            self._land(flight, outcome)
            del flight, outcome  # or the calls that waited for it would live until the next one

    def _next_flight(self) -> Future[HeldCredential] | None:
        """Waits until a renewal is asked for or due; None when there is nothing left to do."""
        with self._wake:
            while not self._closed:
                if self._flight is not None:
                    return self._flight
                wait = self._keeping.due(time.monotonic())
                if wait is None:
                    break
                if wait <= 0:
                    self._flight = Future()
                    return self._flight
                self._wake.wait(wait)
            self._thread = None
            flight, self._flight = self._flight, None
        if flight is not None:
            flight.set_exception(NoCredential(CLOSED))
        return None

    def _land(self, flight: Future[HeldCredential], outcome: HeldCredential | Exception) -> None:
        """Publishes how a renewal ended, then tells who waits. What they do runs here, and must not block."""
        turned = False
        with self._wake:
            self._flight = None
            if isinstance(outcome, NoCredential):
                turned = self._keeping.failed(outcome.failure, time.monotonic())
            elif isinstance(outcome, HeldCredential) and not self._closed:
                turned = self._keeping.succeeded(outcome)
        log_outcome(outcome, turned=turned)
        if isinstance(outcome, HeldCredential):
            flight.set_result(outcome)
        else:
            flight.set_exception(outcome)

    def _renew(self) -> HeldCredential:
        flow = self._keeping.renewal()
        reply: Granted | RenewalFailure | None = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as end:
                held: HeldCredential = end.value
                if isinstance(reply, Granted) and self._on_rotate is not None:
                    self._tell(self._on_rotate, reply.credentials)
                return held
            if isinstance(step, Pause):
                self._pause(step.seconds)
                reply = None
            elif isinstance(step, auth_pb2.RefreshRequest):
                reply = self._ask(self._stub.Refresh, step)
            else:
                reply = self._ask(self._stub.Login, step)

    def _pause(self, seconds: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._closed, seconds)

    def _ask(self, method: Any, request: Any) -> Granted | RenewalFailure:
        asked_at = time.monotonic()
        try:
            call = method.future(request, timeout=_TIMEOUT)
            with self._wake:
                self._request = call
                closed = self._closed
            if closed:
                call.cancel()
            return Granted(call.result().credentials, asked_at, time.monotonic())
        except grpc.FutureCancelledError:
            return CLOSED
        except grpc.RpcError as error:
            metadata: Any = error.trailing_metadata()
            return RenewalFailure.of(error.code(), error.details(), metadata)
        except ValueError as error:
            # What grpc raises on a channel that was closed under us.
            return RenewalFailure.of(grpc.StatusCode.CANCELLED, str(error), None)
        finally:
            self._request = None

    def _tell(self, on_rotate: Rotated, credentials: auth_pb2.Credentials) -> None:
        """Before any call uses them: if this process dies now, the next one holds the right refresh token."""
        try:
            on_rotate(credentials)
        except Exception:  # noqa: BLE001 - the application's own code; the session must not depend on it
            _log.exception("on_rotate failed; the session goes on, but its newest refresh token was not kept")
