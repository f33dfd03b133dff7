"""What a probe may have behind it: another probe, which it calls with the credential of whoever called it."""

from __future__ import annotations

import grpc
import grpc.aio

from interceptors.client import AioCredentials, CallerToken, Credentials
from tests.support.probe.schema import KINDS, METHODS, StringValue, multicallable

__all__ = ["AioBack", "Back"]

_WHO = StringValue(value="who")
_TIMEOUT = 10.0


class Back:
    """Called by `grpc`, from handlers that run in threads."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._calls = grpc.intercept_channel(self._channel, *Credentials(CallerToken()).interceptors())

    def ask(self) -> str:
        """Who is calling, in the eyes of the probe behind: its answer by each of KINDS."""
        said: list[str] = []
        for method in KINDS:
            request_streams, response_streams = METHODS[method]
            made = multicallable(self._calls, method)(iter([_WHO]) if request_streams else _WHO, timeout=_TIMEOUT)
            # Read to its end: a stream that is left half-way was not served.
            answers = list(made) if response_streams else [made]
            said.append(answers[0].value)
        return " ".join(said)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


class AioBack:
    """Called by `grpc.aio`. It belongs to the event loop in which it is made."""

    def __init__(self, target: str) -> None:
        interceptors = list(AioCredentials(CallerToken()).interceptors())
        self._channel = grpc.aio.insecure_channel(target, interceptors=interceptors)

    async def ask(self) -> str:
        """See Back."""
        said: list[str] = []
        for method in KINDS:
            request_streams, response_streams = METHODS[method]
            made = multicallable(self._channel, method)(iter([_WHO]) if request_streams else _WHO, timeout=_TIMEOUT)
            answers = [answer async for answer in made] if response_streams else [await made]
            said.append(answers[0].value)
        return " ".join(said)

    async def close(self) -> None:
        """See Back."""
        await self._channel.close()
