"""Conversion between seconds as floats and google.protobuf.Timestamp and Duration."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["duration", "seconds", "stamp"]


def seconds(timestamp: Timestamp) -> float:
    """Converts a Timestamp to seconds since 1970."""
    return timestamp.seconds + timestamp.nanos / 1e9


def stamp(at: float) -> Timestamp:
    """Converts seconds since 1970 to a Timestamp, rounded to microseconds, which is what a float can hold."""
    whole, microseconds = divmod(round(at * 1e6), 1_000_000)
    return Timestamp(seconds=whole, nanos=microseconds * 1000)


def duration(length: float) -> Duration:
    """Converts seconds to a Duration, rounded to microseconds. Negative seconds become zero."""
    whole, microseconds = divmod(max(0, round(length * 1e6)), 1_000_000)
    return Duration(seconds=whole, nanos=microseconds * 1000)
