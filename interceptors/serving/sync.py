"""Running a sync server (grpc.server) until a signal stops it."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from interceptors.node.mesh_node import MeshNode
from interceptors.server import CallPool, ServerInterceptor
from interceptors.serving.health import HealthServicer
from interceptors.serving.listening import SECOND_SIGNAL_SECONDS, ListenError, listen, server_options
from interceptors.serving.metrics import serve_metrics
from interceptors.settings import ServerSettings
from interceptors.waiting import await_event, await_item

__all__ = ["serve"]

_log: Final = logging.getLogger("credmesh.serving")

_POOL_NAME: Final = "credmesh-call"
_REFLECTION_THREADS: Final = 4
_HEALTH_INTERVAL_SECONDS: Final = 0.2
_MAX_EXIT_DELAY_SECONDS: Final = 5.0
_MAX_CANCEL_SECONDS: Final = 10.0
_SIGNAL_INTERVAL_SECONDS: Final = 0.1
_SERVING_ENDED: Final = 0  # instead of a signal's number


def serve(
    add: Callable[[grpc.Server], None],
    *,
    node: MeshNode,
    settings: ServerSettings,
    services: Sequence[str],
    interceptors: Sequence[grpc.ServerInterceptor] = (),
    workers: int = 32,
    on_stop: Sequence[Callable[[], None]] = (),
) -> None:
    """Serves until SIGTERM or SIGINT, then drains: at most `settings.drain` seconds, or until a second signal.

    A second signal counts from one second after the first. If `settings.drain_delay` is set, the server goes on
    accepting calls for so long while its health is NOT_SERVING, so that load balancers notice.

    add           adds the servicers, e.g. `lambda server: add_OrdersServiceServicer_to_server(Orders(), server)`
    node          a started node; its interceptor comes first, so that no other code runs before a call is verified
    services      full names of the services, for reflection and health. PolicyError if a method has no rule, or if the
                  _pb2 module of a service is not imported
    interceptors  further interceptors, behind credmesh's
    workers       how many calls are served at once; an open stream occupies one worker
    on_stop       called when the drain begins; they should end the streams of handlers that would not end by themselves

    gRPC health says SERVING for "" and for each service only while the node is ready. Must be called from the main
    thread. If the server cannot listen, or grpc stops taking calls, logs the cause and raises SystemExit(1).
    """
    node.policy.check(tuple(services))
    pool = CallPool(workers, message_timeout=settings.message_timeout, thread_name_prefix=_POOL_NAME)
    server = grpc.server(pool, interceptors=[ServerInterceptor(node), *interceptors], options=server_options(settings))
    add(server)
    servicer = HealthServicer(("", *services))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection_pool = _add_reflection(server, services, settings.message_timeout)
    try:
        port = listen(server, settings)
        stop_metrics = serve_metrics(node, settings)
    except ListenError as error:
        _log.critical("%s", error)
        pool.shutdown(wait=False)
        reflection_pool.shutdown(wait=False)
        raise SystemExit(1) from None
    stopping = threading.Event()
    # The signal handlers run in this thread, between any two of its instructions. If the thread held the lock of an
    # Event or a Queue at that moment, they would deadlock. SimpleQueue.put is reentrant.
    signals: _Signals = queue.SimpleQueue()
    before = {
        number: signal.signal(number, lambda n, _: signals.put((n, time.monotonic())))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        servicer.set(ready=node.ready)
        serving = _start(server)
        reporter = threading.Thread(
            target=_report_health,
            args=(servicer, node, stopping, serving, signals),
            name="credmesh-health",
            daemon=True,
        )
        reporter.start()
        _log.info("%s listens", node.settings.service, extra={"port": port, "node": node.id})
        number, signalled_at = await_item(signals)
        if number:
            name, seconds = signal.Signals(number).name, settings.drain
            _log.info("stopping on %s; open calls have %g s to end", name, seconds)
        stopping.set()
        reporter.join()  # or it could say once more that the server is ready
        servicer.set(ready=False)
        _drain(server, settings, signals, signalled_at, on_stop)
    finally:
        stopping.set()
        stop_metrics()
        for number, handler in before.items():
            signal.signal(number, handler)
        pool.shutdown(wait=False, cancel_futures=True)
        reflection_pool.shutdown(wait=False, cancel_futures=True)
        _force_exit_later()
    if number == _SERVING_ENDED:
        raise SystemExit(1)
    _log.info("%s has stopped", node.settings.service)


_Signals = queue.SimpleQueue[tuple[int, float]]
"""Signals, each with the monotonic time at which it came."""


def _start(server: grpc.Server) -> threading.Thread | None:
    """Starts the server. Returns grpc's only thread that takes calls, None if it cannot be found."""
    before = set(threading.enumerate())
    server.start()
    started = [thread for thread in threading.enumerate() if thread not in before]
    return next((thread for thread in started if "(_serve)" in thread.name), None)


def _drain(
    server: grpc.Server,
    settings: ServerSettings,
    signals: _Signals,
    signalled_at: float,
    on_stop: Sequence[Callable[[], None]],
) -> None:
    """Lets open calls end, and cancels them at a second signal."""
    hurried = _second_signal_within(settings.drain_delay, signals, signalled_at)
    done = server.stop(0 if hurried else settings.drain)
    for callback in on_stop:
        callback()
    if hurried or _second_signal_within(settings.drain, signals, signalled_at, done):
        _log.warning("a second signal: open calls are cancelled")
        server.stop(0)
    if not await_event(done, _MAX_CANCEL_SECONDS):
        _log.error("grpc has not ended the open calls within %g s of their cancellation", _MAX_CANCEL_SECONDS)


def _second_signal_within(
    seconds: float, signals: _Signals, signalled_at: float, done: threading.Event | None = None
) -> bool:
    """Waits until the time is over, or `done` is set, or a second signal comes. Returns whether one has come."""
    done = done or threading.Event()
    deadline = time.monotonic() + seconds
    while not done.is_set() and (left := deadline - time.monotonic()) > 0:
        await_event(done, min(left, _SIGNAL_INTERVAL_SECONDS))
        while not signals.empty():
            # `timeout` and `tini -g` send one signal twice.
            if signals.get()[1] - signalled_at >= SECOND_SIGNAL_SECONDS:
                return True
    return False


def _add_reflection(server: grpc.Server, services: Sequence[str], message_timeout: float) -> CallPool:
    """Adds reflection, which has its own few threads: its streams need no credential, and may stay open."""
    pool = CallPool(_REFLECTION_THREADS, message_timeout=message_timeout, thread_name_prefix=_POOL_NAME)
    servicer: Any = reflection.ReflectionServicer((*services, health.SERVICE_NAME, reflection.SERVICE_NAME))
    reflect = partial(servicer.ServerReflectionInfo)
    reflect.experimental_thread_pool = pool  # type: ignore[attr-defined]
    servicer.ServerReflectionInfo = reflect
    add_servicer: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add_servicer(servicer, server)
    return pool


def _report_health(
    servicer: HealthServicer,
    node: MeshNode,
    stopping: threading.Event,
    serving: threading.Thread | None,
    signals: _Signals,
) -> None:
    """Tells the servicer whether the node is ready, and stops the server if grpc takes no calls any more."""
    reported: bool | None = None
    while not stopping.wait(_HEALTH_INTERVAL_SECONDS):
        if serving is not None and not serving.is_alive():
            _log.critical("grpc's thread that takes calls has ended; the process ends, so that it can be restarted")
            signals.put((_SERVING_ENDED, time.monotonic()))
            return
        ready = node.ready
        if ready != reported:
            servicer.set(ready=ready)
            reported = ready


def _force_exit_later() -> None:
    """Ends the process if handlers have not returned some seconds from now: they would keep the interpreter running."""

    def watch() -> None:
        deadline = time.monotonic() + _MAX_EXIT_DELAY_SECONDS
        while stuck := [thread for thread in threading.enumerate() if thread.name.startswith(_POOL_NAME)]:
            left = deadline - time.monotonic()
            if left <= 0:
                _log.error("%d handlers have not returned; the process ends without waiting for them", len(stuck))
                logging.shutdown()
                os._exit(1)
            stuck[0].join(left)

    threading.Thread(target=watch, name="credmesh-exit", daemon=True).start()
