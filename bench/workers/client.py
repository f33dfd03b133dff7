"""A client under test, in its own process: `python -m bench.workers.client CORES SETTINGS`.

It answers three messages:

{"seconds": n}  calls one after the other for so many seconds; answers the number of calls
{"wave": n}     makes so many calls at once; answers how long the slowest took, and how many failed
{"pause": n}    sleeps for so many seconds; answers how many credentials it has obtained since it started
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from bench.load.http2 import CallFailed
from bench.machine import pin
from bench.shop import stock_response
from credmesh.samples.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from interceptors.client import AioCredentials, Credentials, FixedToken, PasswordLogin, aio_channel, channel

__all__ = ["main"]

_REQUEST: Final = inventory_pb2.GetStockRequest(sku="tea")
_EXPECTED: Final = stock_response("tea")
_AIO_CALLS_IN_FLIGHT: Final = 16


def main() -> None:
    """Calls as the messages say, until it is killed."""
    pin(json.loads(sys.argv[1]))
    settings: dict[str, Any] = json.loads(sys.argv[2])
    if settings["aio"]:
        asyncio.run(_aio(settings))
    else:
        _sync(settings)


def _source(settings: dict[str, Any]) -> PasswordLogin | FixedToken | None:
    match settings["credentials"]:
        case "password":
            return PasswordLogin("alice", "alice-password")
        case "token":
            return FixedToken(settings["token"])
        case _:
            return None


def _sync(settings: dict[str, Any]) -> None:
    source = _source(settings)
    auth = channel(settings["auth"], allow_plaintext=True) if settings["auth"] else None
    obtained = _Obtained()
    credentials = None if source is None else Credentials(source, auth, on_rotate=obtained)
    stub = inventory_pb2_grpc.InventoryServiceStub(
        channel(settings["target"], allow_plaintext=True, credentials=credentials)
    )
    for _ in range(100):
        _check(stub.GetStock(_REQUEST))
    gc.freeze()
    _send({"ready": True})
    for line in sys.stdin:
        match json.loads(line):
            case {"wave": size}:
                _send({"obtained": obtained.times, **_wave(stub, size)})
            case {"pause": seconds}:
                time.sleep(seconds)
                _send({"obtained": obtained.times})
            case {"seconds": seconds}:
                _send(_keep_calling(stub, seconds))


def _keep_calling(stub: Any, seconds: float) -> dict[str, float]:
    calls, started_at = 0, time.perf_counter()
    while (now := time.perf_counter()) < started_at + seconds:
        _check(stub.GetStock(_REQUEST))
        calls += 1
    return {"calls": calls, "seconds": now - started_at}


def _wave(stub: Any, size: int) -> dict[str, float]:
    """Makes calls at once; returns how long the slowest took, and how many failed."""
    failed, started_at = 0, time.perf_counter()
    for call in [stub.GetStock.future(_REQUEST) for _ in range(size)]:
        try:
            _check(call.result())
        except (grpc.RpcError, CallFailed):
            failed += 1
    return {"slowest": time.perf_counter() - started_at, "failed": failed}


class _Obtained:
    """Counts the credentials that the client has obtained."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, _: object) -> None:
        self.times += 1


async def _aio(settings: dict[str, Any]) -> None:
    source = _source(settings)
    obtained = _Obtained()
    auth = aio_channel(settings["auth"], allow_plaintext=True) if settings["auth"] else None
    credentials = None if source is None else AioCredentials(source, auth, on_rotate=obtained)
    stub: Any = inventory_pb2_grpc.InventoryServiceStub(
        aio_channel(settings["target"], allow_plaintext=True, credentials=credentials)
    )

    async def call() -> None:
        _check(await stub.GetStock(_REQUEST))

    for _ in range(100):
        await call()
    gc.freeze()
    _send({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case {"wave": size}:
                _send({"obtained": obtained.times, **await _aio_wave(call, size)})
            case {"pause": seconds}:
                await asyncio.sleep(seconds)
                _send({"obtained": obtained.times})
            case {"seconds": seconds}:
                _send(await _keep_calling_aio(call, seconds))


async def _keep_calling_aio(call: Callable[[], Awaitable[None]], seconds: float) -> dict[str, float]:
    calls, started_at = 0, time.perf_counter()

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < started_at + seconds:
            await call()
            calls += 1

    await asyncio.gather(*(caller() for _ in range(_AIO_CALLS_IN_FLIGHT)))
    return {"calls": calls, "seconds": time.perf_counter() - started_at}


async def _aio_wave(call: Callable[[], Awaitable[None]], size: int) -> dict[str, float]:
    """As _wave, for the aio client."""
    started_at = time.perf_counter()
    outcomes = await asyncio.gather(*(call() for _ in range(size)), return_exceptions=True)
    failed = sum(isinstance(outcome, BaseException) for outcome in outcomes)
    return {"slowest": time.perf_counter() - started_at, "failed": failed}


def _check(answer: inventory_pb2.GetStockResponse) -> None:
    if answer != _EXPECTED:
        raise CallFailed(f"answered {answer!r}")


def _send(message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
