"""Running an asyncio server (grpc.aio.server) until a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from interceptors.node.mesh_node import MeshNode
from interceptors.server import AioServerInterceptor
from interceptors.serving.health import AioHealthServicer
from interceptors.serving.listening import SECOND_SIGNAL_SECONDS, ListenError, listen, server_options
from interceptors.serving.metrics import serve_metrics
from interceptors.settings import ServerSettings

__all__ = ["serve_aio"]

_log: Final = logging.getLogger("credmesh.serving")

_HEALTH_INTERVAL_SECONDS: Final = 0.2


async def serve_aio(
    add: Callable[[grpc.aio.Server], None],
    *,
    node: MeshNode,
    settings: ServerSettings,
    services: Sequence[str],
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    on_stop: Sequence[Callable[[], None]] = (),
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. See `serve` for arguments and errors.

    `add` and the `on_stop` callbacks run in this event loop. Open the channels that the servicers use around this call
    (`async with aio_channel(…) as channel: await serve_aio(…)`), so that they outlive the drain.
    """
    node.policy.check(tuple(services))
    ours = AioServerInterceptor(node, message_timeout=settings.message_timeout)
    server = grpc.aio.server(interceptors=[ours, *interceptors], options=server_options(settings))
    add(server)
    servicer = AioHealthServicer(("", *services))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = listen(server, settings)
        stop_metrics = serve_metrics(node, settings)
    except ListenError as error:
        _log.critical("%s", error)
        raise SystemExit(1) from None
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[tuple[signal.Signals, float]] = asyncio.Queue()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, lambda n: signals.put_nowait((n, loop.time())), number)
    servicer.set(ready=node.ready)
    await server.start()
    reporter = asyncio.create_task(_report_health(servicer, node))
    try:
        _log.info("%s listens", node.settings.service, extra={"port": port, "node": node.id})
        first, signalled_at = await signals.get()
        _log.info("stopping on %s; open calls have %g s to end", first.name, settings.drain)
        reporter.cancel()
        servicer.set(ready=False)
        second = asyncio.create_task(_second_signal(signals, signalled_at))
        await asyncio.wait((second,), timeout=settings.drain_delay)
        for callback in on_stop:
            callback()
        await _drain(server, settings.drain, second)
    finally:
        reporter.cancel()
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)  # the loop leaves the default handler
        # Stopping waits for a scrape in progress, and must not block the event loop.
        await asyncio.to_thread(stop_metrics)
    _log.info("%s has stopped", node.settings.service)


async def _second_signal(signals: asyncio.Queue[tuple[signal.Signals, float]], signalled_at: float) -> None:
    """Waits for a second signal. `timeout` and `tini -g` send one signal twice."""
    while (await signals.get())[1] - signalled_at < SECOND_SIGNAL_SECONDS:
        pass


async def _drain(server: grpc.aio.Server, seconds: float, second: asyncio.Task[None]) -> None:
    """Waits until the drain is over, or cancels the open calls at a second signal."""
    drained = asyncio.create_task(server.stop(0 if second.done() else seconds))
    await asyncio.wait((drained, second), return_when=asyncio.FIRST_COMPLETED)
    if second.done():
        _log.warning("a second signal: open calls are cancelled")
        await server.stop(0)
    second.cancel()
    await drained


async def _report_health(servicer: AioHealthServicer, node: MeshNode) -> None:
    reported: bool | None = None
    while True:
        ready = node.ready
        if ready != reported:
            servicer.set(ready=ready)
            reported = ready
        await asyncio.sleep(_HEALTH_INTERVAL_SECONDS)
