"""Renewing credentials in the background: the grpc.aio driver of the flow.

One task makes all requests to the auth service, so that there is never more than one at a time; a timer of the event
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
from interceptors.client.failed_call import CLOSED
from interceptors.client.forks import tell_of_forks
from interceptors.client.renewal import Granted, HeldCredential, NoCredential, Pause, Renewable, RenewalFailure
from interceptors.client.sync.renewer import log_outcome

__all__ = ["AioRenewer", "AioRotated"]

_log: Final = logging.getLogger("credmesh.client")

_TIMEOUT: Final = 5.0  # seconds for one request to the auth service

AioRotated = Callable[[auth_pb2.Credentials], Awaitable[None] | None]


class AioRenewer:
    """Holds a credential and keeps it fresh, in one event loop."""

    def __init__(self, source: Renewable, auth: grpc.aio.Channel, on_rotate: AioRotated | None) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(auth)
        self._on_rotate = on_rotate
        self._keeping = CredentialState(source, random=random.random)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flight: asyncio.Future[HeldCredential] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
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
        self._keeping.used = True
        self._look()
        return held

    async def obtain(self, stale: HeldCredential | None, *, refused: bool = False) -> HeldCredential | None:
        """Something better than `stale`, from the one renewal that everybody waits for. NoCredential if there is none.

        refused: a server did not accept `stale`. None if that has set off too many renewals already.
        """
        now = time.monotonic()
        if self._closed:
            raise NoCredential(CLOSED)
        try:
            held = self._keeping.settled(stale, now)
        except NoCredential:
            if self._flight is None:
                raise
            held = None
        if held is None:
            if self._flight is None and refused and not self._keeping.may_follow_refusal(now):
                return None
            # Shielded: whoever gives up waiting takes nothing from the others.
            held = await asyncio.shield(self._fly())
        self._keeping.used = True
        return held

    def stream_began(self) -> None:
        """A stream was opened: its session has to go on."""
        self._keeping.streams += 1

    def stream_ended(self) -> None:
        """A stream is over."""
        self._keeping.streams = max(0, self._keeping.streams - 1)

    @property
    def session_id(self) -> str | None:
        """The session behind the credential in hand."""
        held = self._keeping.held
        return None if held is None else held.session_id

    async def close(self) -> None:
        """Forgets the credential; a renewal under way is given up. Calls that wait for it, and later ones, fail."""
        self._closed = True
        self._keeping.held = None
        if self._timer is not None:
            self._timer.cancel()
        flight, task = self._flight, self._task
        if flight is None or task is None or self._loop is not asyncio.get_running_loop():
            return
        task.cancel()
        await asyncio.wait([task])
        if not flight.done():
            flight.set_exception(NoCredential(CLOSED))  # the task was cancelled before it began

    def forked(self) -> None:
        """See Forkable: the loop is the parent's."""
        self._loop = None
        self._flight = None
        self._task = None
        self._timer = None
        self._keeping.forked()

    def _fly(self) -> asyncio.Future[HeldCredential]:
        """The renewal under way; begins one if there is none."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise RuntimeError(
                    "these AioCredentials were first used in another event loop, and so was their channel to the auth "
                    "service; make both in the loop that they are used in"
                )
            self._loop = loop
        if self._flight is None:
            self._flight = loop.create_future()
            self._flight.add_done_callback(_heard)
            self._task = loop.create_task(self._carry_out(self._flight))
        return self._flight

    def _look(self) -> None:
        """Renews if that is due, or sets the timer for when it will be."""
        if self._closed or self._flight is not None or self._loop is not asyncio.get_running_loop():
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait = self._keeping.due(time.monotonic())
        if wait is None:
            return
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._look)
        else:
            self._fly()

    async def _carry_out(self, flight: asyncio.Future[HeldCredential]) -> None:
        try:
            outcome: HeldCredential | Exception = await self._renew()
        except asyncio.CancelledError:
            # Only by close(), or because the loop ends: who waits here must not take it for a cancellation of its own.
            outcome = NoCredential(CLOSED)
        except Exception as error:  # noqa: BLE001 - whatever it is, calls wait for it: they get it
            outcome = error
        self._flight = None
        self._task = None
        turned = False
        if isinstance(outcome, NoCredential):
            turned = self._keeping.failed(outcome.failure, time.monotonic())
        elif isinstance(outcome, HeldCredential) and not self._closed:
            turned = self._keeping.succeeded(outcome)
        log_outcome(outcome, turned=turned)
        if isinstance(outcome, HeldCredential):
            flight.set_result(outcome)
        else:
            flight.set_exception(outcome)
        self._look()

    async def _renew(self) -> HeldCredential:
        flow = self._keeping.renewal()
        reply: Granted | RenewalFailure | None = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as end:
                held: HeldCredential = end.value
                if isinstance(reply, Granted) and self._on_rotate is not None:
                    await self._tell(self._on_rotate, reply.credentials)
                return held
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                reply = None
            elif isinstance(step, auth_pb2.RefreshRequest):
                reply = await self._ask(self._stub.Refresh, step)
            else:
                reply = await self._ask(self._stub.Login, step)

    async def _ask(self, method: Any, request: Any) -> Granted | RenewalFailure:
        asked_at = time.monotonic()
        try:
            response = await method(request, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return RenewalFailure.of(error.code(), error.details(), error.trailing_metadata())
        except grpc.aio.UsageError as error:
            # What grpc raises on a channel that was closed under us.
            return RenewalFailure.of(grpc.StatusCode.CANCELLED, str(error), None)
        return Granted(response.credentials, asked_at, time.monotonic())

    async def _tell(self, on_rotate: AioRotated, credentials: auth_pb2.Credentials) -> None:
        """Before any call uses them: if this process dies now, the next one holds the right refresh token."""
        try:
            told = on_rotate(credentials)
            if inspect.isawaitable(told):
                await told
        except Exception:  # noqa: BLE001 - the application's own code; the session must not depend on it
            _log.exception("on_rotate failed; the session goes on, but its newest refresh token was not kept")


def _heard(flight: asyncio.Future[HeldCredential]) -> None:
    """A renewal in the background that fails has no one waiting, and needs none: it was logged."""
    if not flight.cancelled():
        flight.exception()
