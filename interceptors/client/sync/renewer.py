"""Renews a credential in the background, for sync calls.

One thread makes all requests to the auth service, so that there is never more than one at a time. It starts with the
first call, and ends when the credential lapses unused.
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
from interceptors.client.forks import register_for_forks
from interceptors.client.renewal import (
    Granted,
    HeldCredential,
    NoCredential,
    Pause,
    ReadSecret,
    Renewable,
    RenewalFailure,
    RenewalOutcome,
)
from interceptors.client.supply import log_outcome, secret_at

__all__ = ["OnRotate", "Renewer"]

_log: Final = logging.getLogger("credmesh.client")

_REQUEST_TIMEOUT_SECONDS: Final = 5.0
_JOIN_TIMEOUT_SECONDS: Final = 5.0

OnRotate = Callable[[auth_pb2.Credentials], None]


class Renewer:
    """A Supply whose credential is renewed. Thread-safe."""

    def __init__(self, source: Renewable, auth: grpc.Channel, on_rotate: OnRotate | None) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(auth)
        self._on_rotate = on_rotate
        self._state = CredentialState(source, random=random.random)
        self._condition = threading.Condition()
        self._renewal: Future[HeldCredential] | None = None  # the outcome of the renewal that is requested or under way
        self._thread: threading.Thread | None = None
        self._request_call: Any = None
        register_for_forks(self)

    def current(self) -> HeldCredential | None:
        """See Supply. Starts the background renewal if it is due."""
        # Runs in each call. Without the lock: the held credential is replaced as a whole.
        state = self._state
        held = state.held
        if held is None:
            return None
        now = time.monotonic()
        if now < held.refresh_at:
            state.used = True
            return held
        if now >= held.expires_at:
            return None
        with self._condition:
            state.used = True
            if state.seconds_until_renewal(now) == 0 and not state.closed:
                self._start_thread()
        return held

    def obtain(self) -> Future[HeldCredential]:
        """See Supply. The future raises NoCredential if the renewal fails."""
        with self._condition:
            return self._usable_credential(None, time.monotonic()) or self._request_renewal()

    def replace(self, refused: HeldCredential) -> Future[HeldCredential] | None:
        """See Supply. None if refused calls have caused too many renewals already."""
        with self._condition:
            now = time.monotonic()
            future = self._usable_credential(refused, now)
            if future is not None:
                return future
            if self._renewal is None and not self._state.spend_refusal_allowance(now):
                return None
            return self._request_renewal()

    def mark_used(self) -> None:
        """See Supply."""
        self._state.used = True

    def mark_refused(self, refused: HeldCredential) -> None:
        """See Supply."""
        with self._condition:
            self._state.mark_refused(refused, time.monotonic(), renewing=self._renewal is not None)

    def stream_began(self) -> None:
        """See Supply."""
        with self._condition:
            self._state.stream_began()

    def stream_ended(self) -> None:
        """See Supply."""
        with self._condition:
            self._state.stream_ended()

    @property
    def session_id(self) -> str | None:
        """The session of the held credential."""
        held = self._state.held
        return None if held is None else held.session_id

    def close(self) -> None:
        """Drops the credential and cancels a renewal under way. Calls that wait for it fail, and later calls too."""
        with self._condition:
            self._state.close()
            thread, call = self._thread, self._request_call
            self._condition.notify()
        if call is not None:
            call.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_TIMEOUT_SECONDS)

    def reset_after_fork(self) -> None:
        """See Forkable: the thread runs in the parent only, and the lock may have been held by one of its threads."""
        self._condition = threading.Condition()
        self._renewal = None
        self._thread = None
        self._request_call = None
        self._state.reset_after_fork()

    def _usable_credential(self, other_than: HeldCredential | None, now: float) -> Future[HeldCredential] | None:
        """Returns an outcome that needs no renewal; None if there is to be one, or one is under way."""
        future: Future[HeldCredential] = Future()
        try:
            held = self._state.usable_credential(now, other_than=other_than)
        except NoCredential as error:
            if self._renewal is not None and not self._state.closed:
                return None
            future.set_exception(error)
            return future
        if held is None:
            return None
        future.set_result(held)
        return future

    def _request_renewal(self) -> Future[HeldCredential]:
        """Returns the outcome of the renewal under way, or requests one from the thread."""
        if self._renewal is None:
            self._start_thread()
            self._renewal = Future()
            self._condition.notify()
        return self._renewal

    def _start_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="credmesh-renewal", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while (renewal := self._next_renewal()) is not None:
            try:
                outcome: HeldCredential | Exception = self._renew()
            except Exception as error:  # noqa: BLE001 - any error is the outcome, since calls wait for one
                outcome = error
            self._end_renewal(renewal, outcome)
            del renewal, outcome  # they hold the calls that waited, which would live until the next renewal

    def _next_renewal(self) -> Future[HeldCredential] | None:
        """Waits until a renewal is requested or due. Returns its future; None if the thread is to end."""
        with self._condition:
            while not self._state.closed:
                if self._renewal is not None:
                    return self._renewal
                wait = self._state.seconds_until_renewal(time.monotonic())
                if wait is None:
                    break
                if wait <= 0:
                    self._renewal = Future()
                    return self._renewal
                self._condition.wait(wait)
            self._thread = None
            renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.set_exception(NoCredential(CLOSED))
        return None

    def _end_renewal(self, renewal: Future[HeldCredential], outcome: HeldCredential | Exception) -> None:
        """Records the outcome, then publishes it. The callbacks of the waiting calls run here, and must not block."""
        with self._condition:
            self._renewal = None
            notable = self._state.record_outcome(outcome, time.monotonic())
        log_outcome(outcome, notable=notable)
        if isinstance(outcome, HeldCredential):
            renewal.set_result(outcome)
        else:
            renewal.set_exception(outcome)

    def _renew(self) -> HeldCredential:
        flow = self._state.renewal_flow()
        outcome: RenewalOutcome | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                held: HeldCredential = end.value
                if isinstance(outcome, Granted) and self._on_rotate is not None:
                    self._call_on_rotate(self._on_rotate, outcome.credentials)
                return held
            if isinstance(step, Pause):
                self._pause(step.seconds)
                outcome = None
            elif isinstance(step, ReadSecret):
                outcome = secret_at(step)
            elif isinstance(step, auth_pb2.RefreshRequest):
                outcome = self._request(self._stub.Refresh, step)
            else:
                outcome = self._request(self._stub.Login, step)

    def _pause(self, seconds: float) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._state.closed, seconds)

    def _request(self, method: Any, request: Any) -> Granted | RenewalFailure:
        sent_at = time.monotonic()
        try:
            call = method.future(request, timeout=_REQUEST_TIMEOUT_SECONDS)
            with self._condition:
                self._request_call = call
                closed = self._state.closed
            if closed:
                call.cancel()
            return Granted(call.result().credentials, sent_at, time.monotonic())
        except grpc.FutureCancelledError:
            return CLOSED
        except grpc.RpcError as error:
            metadata: Any = error.trailing_metadata()
            return RenewalFailure.of(error.code(), error.details(), metadata)
        except ValueError as error:
            # gRPC raises it if the application has closed the channel to the auth service.
            return RenewalFailure.of(grpc.StatusCode.CANCELLED, str(error), None)
        finally:
            self._request_call = None

    def _call_on_rotate(self, on_rotate: OnRotate, credentials: auth_pb2.Credentials) -> None:
        """Runs before any call uses the credentials: if this process dies now, the newest refresh token is kept."""
        try:
            on_rotate(credentials)
        except Exception:  # noqa: BLE001 - the application's own code; the session must not depend on it
            _log.exception("on_rotate failed; the session goes on, but its newest refresh token was not kept")
