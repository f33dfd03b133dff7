"""A call ends with an error whenever its second attempt cannot be made: a caller never waits forever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
import pytest

from interceptors.client.aio.retry import AioRetriedStream
from interceptors.client.renewal import HeldCredential
from interceptors.client.sync.renewer import Renewer
from interceptors.client.sync.retry import RetriedCall
from interceptors.client.timer import call_at
from interceptors.errors import Reason, Refusal
from tests.interceptors.client.auth_server import World, methods


class Refused:
    """A first attempt. `end` has it refused for an expired credential."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[..., None]] = []
        self._done = False

    def done(self) -> bool:
        return self._done

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._callbacks.append(callback)
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAUTHENTICATED

    def trailing_metadata(self) -> Any:
        return Refusal(Reason.CREDENTIAL_EXPIRED, "it has expired").trailing_metadata()

    def cancel(self) -> bool:
        return False

    def end(self, *arguments: Any) -> None:
        self._done = True
        for callback in self._callbacks:
            callback(*arguments)


def no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_call_ends_when_the_renewal_cannot_be_requested() -> None:
    def replace_credential() -> Future[HeldCredential]:
        raise RuntimeError("can't start new thread")

    first = Refused()
    call = RetriedCall(first, replace_credential, lambda _: None, time.monotonic() + 60)
    first.end()
    with pytest.raises(grpc.RpcError, match="can't start new thread"):
        call.result(10)
    assert call.code() is grpc.StatusCode.INTERNAL


def test_a_blocking_call_ends_when_the_renewal_cannot_be_requested(
    world: World, orders: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(_self: Renewer, _refused: HeldCredential) -> Future[HeldCredential]:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Renewer, "replace", replace)
    world.refuse("token-1", Reason.CREDENTIAL_EXPIRED)
    with pytest.raises(grpc.RpcError, match="can't start new thread") as error:
        methods(orders)[0](b"x")
    assert error.value.code() is grpc.StatusCode.INTERNAL


def test_a_call_ends_when_the_timer_of_its_deadline_cannot_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # Calls that other tests have scheduled are made first, so that their thread is of no use to this test.
    idle = threading.Event()
    call_at(time.monotonic(), idle.set)
    assert idle.wait(10)
    first, renewal = Refused(), Future[HeldCredential]()
    call = RetriedCall(first, lambda: renewal, lambda _: None, time.monotonic() + 60)
    monkeypatch.setattr("interceptors.client.sync.retry.call_at", lambda *_: no_thread(threading.current_thread()))
    first.end()
    with pytest.raises(grpc.RpcError, match="can't start new thread"):
        call.result(10)
    renewal.set_result(HeldCredential.of("t"))
    assert call.code() is grpc.StatusCode.INTERNAL


def test_an_aio_call_that_is_cancelled_during_its_refusal_ends() -> None:
    async def test() -> None:
        first = Refused()

        async def is_renewable(_call: Any) -> bool:
            return True

        async def make_second() -> Any:
            await asyncio.Event().wait()

        call: Any = AioRetriedStream(first, is_renewable, make_second, lambda _: None)
        loop = asyncio.get_running_loop()
        loop.call_soon(first.end, first)
        loop.call_soon(call.cancel)
        assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.CANCELLED
        assert call.done()

    asyncio.run(test())
