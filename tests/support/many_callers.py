"""A process that holds thousands of streams open: `python -m tests.support.many_callers`.

It reads one line of JSON:

    {"target": host:port, "method": path, "groups": {name: [token, how many], …}, "watched": name}

It prints "open" when every stream has got its first message. After another line of input it waits until all streams of
the watched group have ended. Then it prints, as JSON, how many ended with each reason, and how many streams of the
other groups have ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any, Final

import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from interceptors.errors import reason_of

__all__ = ["main"]

_MAX_OPENING_STREAMS: Final = 200
"""How many streams are opened at once: gRPC's server refuses some if more than a thousand wait for a handler."""


class _Stream:
    """One stream, and whether and with which reason it ended."""

    def __init__(self, call: Any) -> None:
        self.opened = asyncio.get_running_loop().create_future()
        self.ended = False
        self.reason = ""
        self._call = call

    async def follow(self) -> None:
        """Reads the stream to its end."""
        try:
            async for _ in self._call:
                if not self.opened.done():
                    self.opened.set_result(None)
        except grpc.aio.AioRpcError as error:
            self.ended = True
            trailing: Any = error.trailing_metadata()
            reason = reason_of(trailing)
            self.reason = error.code().name if reason is None else reason.name
            if not self.opened.done():
                self.opened.set_exception(error)


async def _hold_streams(order: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(order["target"]) as channel:
        open_stream: Any = channel.unary_stream(
            order["method"],
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        groups: dict[str, list[_Stream]] = {}
        tasks: dict[str, list[asyncio.Task[None]]] = {}
        for name, (token, count) in order["groups"].items():
            metadata = (("authorization", f"Bearer {token}"),)
            groups[name], tasks[name] = [], []
            while len(groups[name]) < count:
                batch = min(_MAX_OPENING_STREAMS, count - len(groups[name]))
                opening = [_Stream(open_stream(StringValue(value="hold"), metadata=metadata)) for _ in range(batch)]
                groups[name] += opening
                tasks[name] += [loop.create_task(stream.follow()) for stream in opening]
                await asyncio.gather(*(stream.opened for stream in opening))
        print("open", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        await asyncio.gather(*tasks[order["watched"]])
        ended = groups[order["watched"]]
        others = [stream for name, streams in groups.items() if name != order["watched"] for stream in streams]
        result = {
            "reasons": Counter(stream.reason for stream in ended),
            "others": sum(stream.ended for stream in others),
        }
        print(json.dumps(result), flush=True)
        for stream_task in asyncio.all_tasks() - {asyncio.current_task()}:
            stream_task.cancel()


def main() -> None:
    """Holds the streams that the first line of input describes."""
    asyncio.run(_hold_streams(json.loads(sys.stdin.readline())))


if __name__ == "__main__":
    main()
