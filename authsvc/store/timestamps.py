"""Times in records and messages: seconds since 1970 on this side, google.protobuf.Timestamp and Duration on that."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["duration", "seconds", "stamp"]


def seconds(timestamp: Timestamp) -> float:
    """A Timestamp in seconds since 1970."""
    return timestamp.seconds + timestamp.nanos / 1e9


def stamp(at: float) -> Timestamp:
    """Seconds since 1970 as a Timestamp, to the microsecond: a float holds no more of them."""
    whole, microseconds = divmod(round(at * 1e6), 1_000_000)
    return Timestamp(seconds=whole, nanos=microseconds * 1000)


def duration(length: float) -> Duration:
    """Seconds as a Duration, to the microsecond; not below zero."""
    whole, microseconds = divmod(max(0, round(length * 1e6)), 1_000_000)
    return Duration(seconds=whole, nanos=microseconds * 1000)
