"""gRPC health (grpc.health.v1) that is answered whatever else the server does.

The sync servicer needs no thread, so a server whose threads are all busy is not taken for a dead one. No caller can
block the answers to others: a watcher that reads nothing is sent nothing more until it reads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interceptors.server.call_pool import never_waits
from interceptors.server.sync_sending import CAN_SEND_AT_ONCE, send_at_once

__all__ = ["AioHealthServicer", "HealthServicer"]

_pb2: Final[Any] = health_pb2  # the stubs lack List


class _Statuses:
    """Whether each service is served. names: the services; "" is the whole server."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self.set(ready=False)

    def set(self, *, ready: bool) -> None:
        """Sets the status of all services."""
        statuses = health_pb2.HealthCheckResponse
        self._status = statuses.SERVING if ready else statuses.NOT_SERVING

    def check(self, name: str) -> health_pb2.HealthCheckResponse | None:
        """Returns the status of a service; None if there is no such service."""
        return health_pb2.HealthCheckResponse(status=self._status) if name in self._names else None

    def watch(self, name: str) -> health_pb2.HealthCheckResponse:
        """Returns the status of a service, for a watcher: SERVICE_UNKNOWN if there is no such service."""
        unknown = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        return self.check(name) or unknown

    def all(self) -> Any:
        """Returns the status of every service."""
        status = health_pb2.HealthCheckResponse(status=self._status)
        return _pb2.HealthListResponse(statuses=dict.fromkeys(self._names, status))


_NO_SUCH_SERVICE = (grpc.StatusCode.NOT_FOUND, "this server has no such service; List names those that it has")


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Health of a `grpc.server`. Its methods never wait, so a CallPool runs them in the server's own thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self._statuses = _Statuses(names)
        self._lock = threading.Lock()
        self._watchers: set[_Watcher] = set()

    def set(self, *, ready: bool) -> None:
        """Sets the status of all services, and tells the watchers. Does not wait for them."""
        self._statuses.set(ready=ready)
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.tell(self._statuses.watch(watcher.name))

    @never_waits
    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Returns the status of a service. NOT_FOUND if there is no such service."""
        return self._statuses.check(request.service) or _abort(context)

    @never_waits
    def List(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Returns the status of every service, as a HealthListResponse."""
        del request, context
        return self._statuses.all()

    @never_waits
    def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send: Callable[[Any], None]
    ) -> None:
        """Sends the status of a service, and again whenever it changes."""
        del send  # it waits until the client has read
        if not CAN_SEND_AT_ONCE:  # pragma: no cover - depends on the installed grpcio
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "health cannot be watched here; use Check")
        watcher = _Watcher(request.service, context)
        with self._lock:
            self._watchers.add(watcher)
        if not context.add_callback(lambda: self._forget(watcher)):
            self._forget(watcher)
        watcher.tell(self._statuses.watch(request.service))

    # Then grpc keeps the call open after `Watch` has returned.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def _forget(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)


def _abort(context: grpc.ServicerContext) -> NoReturn:
    context.abort(*_NO_SUCH_SERVICE)
    raise AssertionError("abort raises")


class _Watcher:
    """A caller of `Watch`. One message at a time is on its way; of later ones, the newest follows."""

    def __init__(self, name: str, context: grpc.ServicerContext) -> None:
        self.name = name
        self._context = context
        self._lock = threading.Lock()
        self._sending = False
        self._sent: health_pb2.HealthCheckResponse | None = None
        self._newest: health_pb2.HealthCheckResponse | None = None

    def tell(self, status: health_pb2.HealthCheckResponse) -> None:
        """Sends a status if it is not the one that the caller has."""
        with self._lock:
            self._newest = status
            self._send_newest()

    def _send_newest(self) -> None:
        newest = self._newest
        if newest is not None and newest != self._sent and not self._sending:
            self._sending = send_at_once(self._context, newest.SerializeToString(), self._note_sent)
            self._sent = newest

    def _note_sent(self) -> None:
        with self._lock:
            self._sending = False
            self._send_newest()


class AioHealthServicer(health_pb2_grpc.HealthServicer):
    """Health of a `grpc.aio.server`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._statuses = _Statuses(names)
        self._watchers: set[asyncio.Event] = set()

    def set(self, *, ready: bool) -> None:
        """Sets the status of all services, and tells the watchers. To be called in the server's event loop."""
        self._statuses.set(ready=ready)
        for changed in self._watchers:
            changed.set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Returns the status of a service. NOT_FOUND if there is no such service."""
        status = self._statuses.check(request.service)
        if status is None:
            await context.abort(*_NO_SUCH_SERVICE)
        return status

    async def List(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Returns the status of every service, as a HealthListResponse."""
        del request, context
        return self._statuses.all()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Sends the status of a service, and again whenever it changes."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        sent = None
        try:
            while True:
                changed.clear()
                status = self._statuses.watch(request.service)
                if status != sent:
                    await context.write(status)
                    sent = status
                await changed.wait()
        finally:
            self._watchers.discard(changed)
