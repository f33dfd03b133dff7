"""The client of a probe that calls another probe, its backend, with its own caller's credential."""

from __future__ import annotations

import grpc
import grpc.aio

from interceptors.client import AioCredentials, CallerToken, Credentials
from tests.support.probe.schema import KINDS, METHODS, StringValue, multicallable

__all__ = ["AioBackend", "Backend"]

_WHO = StringValue(value="who")
_TIMEOUT = 10.0


class Backend:
    """Calls the backend by `grpc`, from handlers that run in threads."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._calls = grpc.intercept_channel(self._channel, *Credentials(CallerToken()).interceptors())

    def caller_by_each_kind(self) -> str:
        """Returns the caller that the backend sees, by each of KINDS."""
        said: list[str] = []
        for method in KINDS:
            request_streams, response_streams = METHODS[method]
            made = multicallable(self._calls, method)(iter([_WHO]) if request_streams else _WHO, timeout=_TIMEOUT)
            # Read to the end, so that the stream counts as served.
            answers = list(made) if response_streams else [made]
            said.append(answers[0].value)
        return " ".join(said)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


class AioBackend:
    """Calls the backend by `grpc.aio`. It belongs to the event loop in which it was made."""

    def __init__(self, target: str) -> None:
        interceptors = list(AioCredentials(CallerToken()).interceptors())
        self._channel = grpc.aio.insecure_channel(target, interceptors=interceptors)

    async def caller_by_each_kind(self) -> str:
        """See Backend."""
        said: list[str] = []
        for method in KINDS:
            request_streams, response_streams = METHODS[method]
            made = multicallable(self._channel, method)(iter([_WHO]) if request_streams else _WHO, timeout=_TIMEOUT)
            answers = [answer async for answer in made] if response_streams else [await made]
            said.append(answers[0].value)
        return " ".join(said)

    async def close(self) -> None:
        """See Backend."""
        await self._channel.close()
