"""One watch of one prefix, on one stream to one endpoint.

How it ends: by an exception, always. EtcdUnavailable when the stream breaks (the member died, lost its leader, or the
watch was closed); Compacted when events that were asked for are gone, so that the prefix has to be read anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

import grpc

from interceptors.etcd.channels import METADATA, Endpoint
from interceptors.etcd.compat import import_etcdrpc
from interceptors.etcd.errors import Compacted, EtcdRefused, EtcdUnavailable, refusal, text_of
from interceptors.etcd.records import decode_key, encode_key, prefix_end

__all__ = ["Event", "Watch"]

_etcdrpc: Final = import_etcdrpc()
_DELETE: Final = 1
"""mvccpb.Event.EventType.DELETE"""


@dataclass(frozen=True, slots=True)
class Event:
    """A key was put, or deleted (`value` is None), by the transaction of `mod_revision`."""

    key: str
    value: bytes | None
    mod_revision: int


class Watch:
    """A confirmed watch. `next_events()` waits for events; `close()`, from any thread, ends the waiting.

    `failed` is called if the endpoint let the watch down, not if it was closed from this side.
    """

    def __init__(
        self, endpoint: Endpoint, prefix: str, start_revision: int, *, timeout: float, failed: Callable[[], None]
    ) -> None:
        create = _etcdrpc.WatchCreateRequest(
            key=encode_key(prefix), range_end=prefix_end(prefix), start_revision=start_revision
        )
        self._endpoint = endpoint
        self._failed = failed
        self._closed = False
        self._confirmed = False
        # etcd ends the watch when our side of the stream ends, so the requests' iterator blocks until close().
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._requests.put(_etcdrpc.WatchRequest(create_request=create))
        self._call = endpoint.watch.Watch(iter(self._requests.get, None), metadata=METADATA)
        # The stream itself has no deadline, but its first answer has one.
        timer = threading.Timer(timeout, self._call.cancel)
        timer.daemon = True
        timer.start()
        try:
            while not self._confirmed:
                self._confirmed = self._receive().created
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()

    def next_events(self) -> Sequence[Event]:
        """Waits for the events of one or more whole revisions, in the order of their commits."""
        while True:
            events = self._receive().events
            if events:
                return [_event(event) for event in events]

    def close(self) -> None:
        """Ends the watch."""
        self._closed = True
        self._call.cancel()
        self._requests.put(None)

    def abandon(self) -> None:
        """Ends the watch since its endpoint does not do well, though it may seem to."""
        self._failed()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            response = next(self._call)
        except StopIteration:
            raise self._broken("the watch ended") from None
        except grpc.RpcError as error:
            late = error.code() is grpc.StatusCode.CANCELLED and not (self._closed or self._confirmed)
            raise refusal(error) or self._broken("no answer in time" if late else text_of(error)) from error
        if response.compact_revision:
            raise Compacted(f"etcd refuses: compacted up to revision {response.compact_revision}")
        if response.canceled:
            raise EtcdRefused(f"etcd refuses: {response.cancel_reason or 'it cancelled the watch'}")
        return response

    def _broken(self, text: str) -> EtcdUnavailable:
        if not self._closed:
            self._failed()
        return EtcdUnavailable(f"etcd at {self._endpoint.name} does not answer ({text})")


def _event(event: Any) -> Event:
    value = None if event.type == _DELETE else event.kv.value
    return Event(decode_key(event.kv.key), value, event.kv.mod_revision)
