"""One watch of one prefix, on one stream to one endpoint.

A watch always ends by an exception. EtcdUnavailable: the stream broke (the member died, lost its leader, or the watch
was closed). Compacted: requested events are gone, so the prefix has to be read again.
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
    """A key was put, or deleted (`value` is None), by the transaction of `mod_revision`.

    lease  the lease under which the key was put; 0 for none, and for a deletion
    """

    key: str
    value: bytes | None
    mod_revision: int
    lease: int = 0


class Watch:
    """A watch that etcd has confirmed. `next_events()` waits for events; `close()`, from any thread, ends that wait.

    on_failure  called if the endpoint ends the watch, but not if this side closes it
    """

    def __init__(
        self, endpoint: Endpoint, prefix: str, start_revision: int, *, timeout: float, on_failure: Callable[[], None]
    ) -> None:
        create = _etcdrpc.WatchCreateRequest(
            key=encode_key(prefix), range_end=prefix_end(prefix), start_revision=start_revision
        )
        self._endpoint = endpoint
        self._on_failure = on_failure
        self._closed = False
        self._confirmed = False
        # etcd ends the watch when the client's side of the stream ends, so the requests' iterator blocks until close().
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
        """Ends the watch, and makes the next one use another endpoint. For an endpoint that hangs without an error."""
        self._on_failure()
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
            raise self._lost_watch("the watch ended") from None
        except grpc.RpcError as error:
            timed_out = error.code() is grpc.StatusCode.CANCELLED and not (self._closed or self._confirmed)
            raise refusal(error) or self._lost_watch("no answer in time" if timed_out else text_of(error)) from error
        if response.compact_revision:
            raise Compacted(f"etcd refuses: compacted up to revision {response.compact_revision}")
        if response.canceled:
            raise EtcdRefused(f"etcd refuses: {response.cancel_reason or 'it cancelled the watch'}")
        return response

    def _lost_watch(self, text: str) -> EtcdUnavailable:
        if not self._closed:
            self._on_failure()
        return EtcdUnavailable(f"etcd at {self._endpoint.name} does not answer ({text})")


def _event(event: Any) -> Event:
    pair = event.kv
    value = None if event.type == _DELETE else pair.value
    return Event(decode_key(pair.key), value, pair.mod_revision, pair.lease)
