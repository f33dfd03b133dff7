"""Renews a credential in the background, for grpc.aio calls.

One task at a time makes the requests to the auth service, so that there is never more than one. A timer of the event
loop starts it ahead of expiry. Nothing here outlives the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.client.credential_state import CredentialState
from interceptors.client.failed_call import CLOSED, mark_exception_retrieved
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

__all__ = ["AioOnRotate", "AioRenewer"]

_log: Final = logging.getLogger("credmesh.client")

_REQUEST_TIMEOUT_SECONDS: Final = 5.0

AioOnRotate = Callable[[auth_pb2.Credentials], Awaitable[None] | None]


class AioRenewer:
    """An AioSupply whose credential is renewed."""

    def __init__(self, source: Renewable, auth: grpc.aio.Channel, on_rotate: AioOnRotate | None) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(auth)
        self._on_rotate = on_rotate
        self._state = CredentialState(source, random=random.random)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renewal: asyncio.Future[HeldCredential] | None = None  # the outcome of the renewal under way
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        register_for_forks(self)

    def current(self) -> HeldCredential | None:
        """See AioSupply. Starts the background renewal if it is due."""
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
        state.used = True
        self._renew_if_due()
        return held

    def obtain(self) -> asyncio.Future[HeldCredential]:
        """See AioSupply. The future raises NoCredential if the renewal fails."""
        return self._usable_credential(None, time.monotonic()) or self._start_renewal()

    def replace(self, refused: HeldCredential) -> asyncio.Future[HeldCredential] | None:
        """See AioSupply. None if refused calls have caused too many renewals already."""
        now = time.monotonic()
        future = self._usable_credential(refused, now)
        if future is not None:
            return future
        if self._renewal is None and not self._state.spend_refusal_allowance(now):
            return None
        return self._start_renewal()

    def mark_used(self) -> None:
        """See AioSupply."""
        self._state.used = True

    def mark_refused(self, refused: HeldCredential) -> None:
        """See AioSupply."""
        self._state.mark_refused(refused, time.monotonic(), renewing=self._renewal is not None)

    def stream_began(self) -> None:
        """See AioSupply."""
        self._state.stream_began()

    def stream_ended(self) -> None:
        """See AioSupply."""
        self._state.stream_ended()

    @property
    def session_id(self) -> str | None:
        """The session of the held credential."""
        held = self._state.held
        return None if held is None else held.session_id

    async def close(self) -> None:
        """Drops the credential and cancels a renewal under way. Calls that wait for it fail, and later calls too."""
        self._state.close()
        if self._timer is not None:
            self._timer.cancel()
        renewal, task = self._renewal, self._task
        if renewal is None or task is None or self._loop is not asyncio.get_running_loop():
            return
        task.cancel()
        await asyncio.wait([task])
        if not renewal.done():
            renewal.set_exception(NoCredential(CLOSED))  # the task was cancelled before its first step

    def reset_after_fork(self) -> None:
        """See Forkable: the event loop runs in the parent only."""
        self._loop = None
        self._renewal = None
        self._task = None
        self._timer = None
        self._state.reset_after_fork()

    def _usable_credential(
        self, other_than: HeldCredential | None, now: float
    ) -> asyncio.Future[HeldCredential] | None:
        """Returns an outcome that needs no renewal; None if there is to be one, or one is under way."""
        try:
            held = self._state.usable_credential(now, other_than=other_than)
        except NoCredential as error:
            if self._renewal is not None and not self._state.closed:
                return None
            failed: asyncio.Future[HeldCredential] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed
        if held is None:
            return None
        obtained: asyncio.Future[HeldCredential] = asyncio.get_running_loop().create_future()
        obtained.set_result(held)
        return obtained

    def _start_renewal(self) -> asyncio.Future[HeldCredential]:
        """Returns the outcome of the renewal under way; starts one if there is none."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise RuntimeError(
                    "these AioCredentials were first used in another event loop, and so was their channel to the auth "
                    "service; make both in the loop that uses them"
                )
            self._loop = loop
        if self._renewal is None:
            self._renewal = loop.create_future()
            # A background renewal may fail with no call waiting for it. The failure is logged by `log_outcome`.
            self._renewal.add_done_callback(mark_exception_retrieved)
            self._task = loop.create_task(self._run(self._renewal))
        return self._renewal

    def _renew_if_due(self) -> None:
        """Starts the background renewal if it is due; otherwise sets the timer for it."""
        if self._state.closed or self._renewal is not None or self._loop is not asyncio.get_running_loop():
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait = self._state.seconds_until_renewal(time.monotonic())
        if wait is None:
            return
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._renew_if_due)
        else:
            self._start_renewal()

    async def _run(self, renewal: asyncio.Future[HeldCredential]) -> None:
        try:
            outcome: HeldCredential | Exception = await self._renew()
        except asyncio.CancelledError:
            # From `close`, or because the loop ends. The waiting calls must not take it for their own cancellation.
            outcome = NoCredential(CLOSED)
        except Exception as error:  # noqa: BLE001 - any error is the outcome, since calls wait for one
            outcome = error
        self._renewal = None
        self._task = None
        notable = self._state.record_outcome(outcome, time.monotonic())
        log_outcome(outcome, notable=notable)
        if isinstance(outcome, HeldCredential):
            renewal.set_result(outcome)
        else:
            renewal.set_exception(outcome)
        self._renew_if_due()

    async def _renew(self) -> HeldCredential:
        flow = self._state.renewal_flow()
        outcome: RenewalOutcome | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                held: HeldCredential = end.value
                if isinstance(outcome, Granted) and self._on_rotate is not None:
                    await self._call_on_rotate(self._on_rotate, outcome.credentials)
                return held
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                outcome = None
            elif isinstance(step, ReadSecret):
                outcome = await asyncio.to_thread(secret_at, step)
            elif isinstance(step, auth_pb2.RefreshRequest):
                outcome = await self._request(self._stub.Refresh, step)
            else:
                outcome = await self._request(self._stub.Login, step)

    async def _request(self, method: Any, request: Any) -> Granted | RenewalFailure:
        sent_at = time.monotonic()
        try:
            response = await method(request, timeout=_REQUEST_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            return RenewalFailure.of(error.code(), error.details(), error.trailing_metadata())
        except grpc.aio.UsageError as error:
            # grpc.aio raises it if the application has closed the channel to the auth service.
            return RenewalFailure.of(grpc.StatusCode.CANCELLED, str(error), None)
        return Granted(response.credentials, sent_at, time.monotonic())

    async def _call_on_rotate(self, on_rotate: AioOnRotate, credentials: auth_pb2.Credentials) -> None:
        """Runs before any call uses the credentials: if this process dies now, the newest refresh token is kept."""
        try:
            returned = on_rotate(credentials)
            if inspect.isawaitable(returned):
                await returned
        except Exception:  # noqa: BLE001 - the application's own code; the session must not depend on it
            _log.exception("on_rotate failed; the session goes on, but its newest refresh token was not kept")
