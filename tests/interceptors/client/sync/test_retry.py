"""Whatever keeps the second attempt of a call from being made, whoever waits for the call hears of it."""

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
from interceptors.client.sync.retry import RetriedCall
from interceptors.client.timer import alarm
from interceptors.errors import Reason, Refusal


class Refused:
    """A first attempt, to be refused for a credential that has expired."""

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
        return Refusal(Reason.CREDENTIAL_EXPIRED, "it is old").trailing_metadata()

    def cancel(self) -> bool:
        return False

    def end(self, *arguments: Any) -> None:
        self._done = True
        for callback in self._callbacks:
            callback(*arguments)


def no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_call_ends_where_asking_for_a_fresh_credential_fails() -> None:
    def renew() -> Future[HeldCredential]:
        raise RuntimeError("can't start new thread")

    first = Refused()
    call = RetriedCall(first, renew, lambda _: None, time.monotonic() + 60)
    first.end()
    with pytest.raises(grpc.RpcError, match="can't start new thread"):
        call.result(10)
    assert call.code() is grpc.StatusCode.INTERNAL


def test_a_call_ends_where_nobody_could_end_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever alarms other tests have set must not keep a thread that this one could use.
    over = threading.Event()
    alarm(time.monotonic(), over.set)
    assert over.wait(10)
    first, waited = Refused(), Future[HeldCredential]()
    call = RetriedCall(first, lambda: waited, lambda _: None, time.monotonic() + 60)
    monkeypatch.setattr("interceptors.client.sync.retry.alarm", lambda *_: no_thread(threading.current_thread()))
    first.end()
    with pytest.raises(grpc.RpcError, match="can't start new thread"):
        call.result(10)
    waited.set_result(HeldCredential.of("t"))
    assert call.code() is grpc.StatusCode.INTERNAL


def test_an_aio_call_that_is_cancelled_as_it_is_refused_ends() -> None:
    async def test() -> None:
        first = Refused()

        async def renewable(_call: Any) -> bool:
            return True

        async def again() -> Any:
            await asyncio.Event().wait()

        call: Any = AioRetriedStream(first, renewable, again)
        loop = asyncio.get_running_loop()
        loop.call_soon(first.end, first)
        loop.call_soon(call.cancel)
        assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.CANCELLED
        assert call.done()

    asyncio.run(test())
