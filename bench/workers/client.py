"""A client under test, in a process of its own: `python -m bench.workers.client CORES SETTINGS`.

It is told {"seconds": …} or {"wave": …} by lines, and answers what became of the calls; and told {"settle": …}, it
answers how many credentials it has had since it was started, once so many seconds have passed.
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
from bench.shop import stock
from credmesh.samples.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from interceptors.client import AioCredentials, Credentials, FixedToken, PasswordLogin, aio_channel, channel

__all__ = ["main"]

_REQUEST: Final = inventory_pb2.GetStockRequest(sku="tea")
_EXPECTED: Final = stock("tea")
_AT_ONCE: Final = 16


def main() -> None:
    """Calls as it is told, until it is killed."""
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
    _say({"ready": True})
    for line in sys.stdin:
        match json.loads(line):
            case {"wave": size}:
                _say({"obtained": obtained.times, **_wave(stub, size)})
            case {"settle": seconds}:
                time.sleep(seconds)
                _say({"obtained": obtained.times})
            case {"seconds": seconds}:
                _say(_keep_calling(stub, seconds))


def _keep_calling(stub: Any, seconds: float) -> dict[str, float]:
    calls, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds:
        _check(stub.GetStock(_REQUEST))
        calls += 1
    return {"calls": calls, "seconds": now - begun}


def _wave(stub: Any, size: int) -> dict[str, float]:
    """All at once; how long the slowest took, and how many failed."""
    failed, begun = 0, time.perf_counter()
    for call in [stub.GetStock.future(_REQUEST) for _ in range(size)]:
        try:
            _check(call.result())
        except (grpc.RpcError, CallFailed):
            failed += 1
    return {"slowest": time.perf_counter() - begun, "failed": failed}


class _Obtained:
    """Counts the credentials that a source has given."""

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
    _say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case {"wave": size}:
                _say({"obtained": obtained.times, **await _aio_wave(call, size)})
            case {"settle": seconds}:
                await asyncio.sleep(seconds)
                _say({"obtained": obtained.times})
            case {"seconds": seconds}:
                _say(await _keep_calling_aio(call, seconds))


async def _keep_calling_aio(call: Callable[[], Awaitable[None]], seconds: float) -> dict[str, float]:
    calls, begun = 0, time.perf_counter()

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < begun + seconds:
            await call()
            calls += 1

    await asyncio.gather(*(caller() for _ in range(_AT_ONCE)))
    return {"calls": calls, "seconds": time.perf_counter() - begun}


async def _aio_wave(call: Callable[[], Awaitable[None]], size: int) -> dict[str, float]:
    """As _wave."""
    begun = time.perf_counter()
    outcomes = await asyncio.gather(*(call() for _ in range(size)), return_exceptions=True)
    failed = sum(isinstance(outcome, BaseException) for outcome in outcomes)
    return {"slowest": time.perf_counter() - begun, "failed": failed}


def _check(answer: inventory_pb2.GetStockResponse) -> None:
    if answer != _EXPECTED:
        raise CallFailed(f"answered {answer!r}")


def _say(message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
