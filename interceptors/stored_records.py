"""The format of the records that credmesh keeps in etcd (credmesh/store/v1), and reading one."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError

__all__ = ["FORMAT", "RecordError", "parse_record"]

FORMAT: Final = 1
"""The only format that this code writes and reads. Every record names its format."""


class RecordError(ValueError):
    """A record in etcd is not valid. The text says why and never quotes the record.

    Code that lists records logs the error and skips the record. Code that needs the record refuses.
    """


class _StoredRecord(Protocol):
    """A message of credmesh.store.v1: each has a `format`."""

    format: int

    @classmethod
    def FromString(cls, serialized: bytes, /) -> Any: ...


Record = TypeVar("Record", bound=_StoredRecord)


def parse_record(kind: type[Record], value: bytes) -> Record:
    """Parses a record of credmesh.store.v1. RecordError if the bytes are of another kind or of an unknown format."""
    name = kind.__name__
    try:
        record: Record = kind.FromString(value)
    except DecodeError:
        raise RecordError(f"not a {name} record") from None
    if record.format != FORMAT:
        raise RecordError(
            f"{name} record of format {record.format}; this code reads format {FORMAT} only. "
            "Is this process older than the mesh?"
        )
    return record
