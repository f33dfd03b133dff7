"""Running a sync server (grpc.server) until somebody says stop."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from interceptors.node.mesh_node import MeshNode
from interceptors.server import ServerInterceptor
from interceptors.serving.listening import SERVER_OPTIONS, ListenError, listen
from interceptors.serving.metrics import serve_metrics
from interceptors.settings import ServerSettings
from interceptors.waiting import await_item

__all__ = ["serve"]

_log: Final = logging.getLogger("credmesh.serving")

_POOL_NAME: Final = "credmesh-call"
_HEALTH_INTERVAL: Final = 0.2
_STUCK_AFTER: Final = 5.0


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
    """Serves until SIGTERM or SIGINT, then drains: at most `settings.drain` seconds, none after a second signal.

    add           adds the servicers, e.g. `lambda server: add_OrdersServiceServicer_to_server(Orders(), server)`
    node          a started node; its interceptor is put first, so that nothing runs before a call is verified
    services      full names of the services, for reflection and health; PolicyError for a method without a rule,
                  and for a service whose _pb2 module is not imported
    interceptors  further ones, behind ours
    workers       how many calls are served at once; an open stream takes one
    on_stop       called when the drain begins, for handlers that would otherwise go on: to end their streams

    gRPC health says SERVING for "" and for each service only while the node is ready. Must be called from the main
    thread. If the port cannot be had it logs why and raises SystemExit(1).
    """
    node.policy.check(tuple(services))
    pool = ThreadPoolExecutor(workers, thread_name_prefix=_POOL_NAME)
    server = grpc.server(pool, interceptors=[ServerInterceptor(node), *interceptors], options=SERVER_OPTIONS)
    add(server)
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = listen(server, settings)
        stop_metrics = serve_metrics(node, settings)
    except ListenError as error:
        _log.critical("%s", error)
        pool.shutdown(wait=False)
        raise SystemExit(1) from None
    stopping = threading.Event()
    reporter = threading.Thread(
        target=_report_health, args=(servicer, node, ("", *services), stopping), name="credmesh-health", daemon=True
    )
    # Put into by signal handlers, which run between any two lines of this very thread: an Event or a Queue could be
    # holding its own lock right then; SimpleQueue.put is reentrant.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    before = {number: signal.signal(number, lambda n, _: signals.put(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _set_health(servicer, ("", *services), ready=node.ready)
        server.start()
        reporter.start()
        _log.info("%s listens", node.settings.service, extra={"port": port, "node": node.id})
        _log.info("stopping on %s; open calls get %g s", signal.Signals(await_item(signals)).name, settings.drain)
        stopping.set()
        servicer.enter_graceful_shutdown()
        done = server.stop(settings.drain)
        for callback in on_stop:
            callback()
        _wait(done, server, signals)
    finally:
        stopping.set()
        stop_metrics()
        for number, handler in before.items():
            signal.signal(number, handler)
        pool.shutdown(wait=False, cancel_futures=True)
        _leave_anyway()
    _log.info("%s has stopped", node.settings.service)


def _wait(done: threading.Event, server: grpc.Server, signals: queue.SimpleQueue[int]) -> None:
    """Waits for the drain. A second signal means now."""

    def watch() -> None:
        done.wait()
        signals.put(0)

    threading.Thread(target=watch, name="credmesh-drain", daemon=True).start()
    if await_item(signals) != 0:
        _log.warning("asked again to stop; open calls are cancelled")
        server.stop(0).wait()


def _report_health(
    servicer: health.HealthServicer, node: MeshNode, names: Sequence[str], stopping: threading.Event
) -> None:
    reported: bool | None = None
    while not stopping.wait(_HEALTH_INTERVAL):
        ready = node.ready
        if ready != reported:
            _set_health(servicer, names, ready=ready)
            reported = ready


def _set_health(servicer: health.HealthServicer, names: Sequence[str], *, ready: bool) -> None:
    status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in names:
        servicer.set(name, status)


def _leave_anyway() -> None:
    """A handler that never returns would keep the interpreter from ending. It gets a while, then the process goes."""

    def watch() -> None:
        deadline = time.monotonic() + _STUCK_AFTER
        while stuck := [thread for thread in threading.enumerate() if thread.name.startswith(_POOL_NAME)]:
            left = deadline - time.monotonic()
            if left <= 0:
                _log.error("%d handlers have not returned; the process leaves without them", len(stuck))
                logging.shutdown()
                os._exit(1)
            stuck[0].join(left)

    threading.Thread(target=watch, name="credmesh-leave", daemon=True).start()
