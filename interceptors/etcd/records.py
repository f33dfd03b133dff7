"""What is read from etcd and written to it, and how that becomes etcd's messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from interceptors.etcd.compat import import_etcdrpc

__all__ = [
    "CreatedAt",
    "Delete",
    "KeyValue",
    "NoneSince",
    "Put",
    "Snapshot",
    "Unchanged",
    "collect",
    "compare",
    "decode_key",
    "encode_key",
    "operate",
    "prefix_end",
]

_etcdrpc: Final = import_etcdrpc()


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key's value. Revisions are etcd's; `lease` is 0 if the key has none."""

    value: bytes
    mod_revision: int
    create_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Keys as of one revision; a key that is absent in etcd is absent in `values`."""

    values: Mapping[str, KeyValue]
    revision: int
    cluster_id: int = 0


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Condition: the key was last written at this revision; 0 means that it must be absent.

    value: and holds this, if it is given: a restored etcd may write another's value at the very revision that ours had
    before it.
    """

    key: str
    mod_revision: int
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class CreatedAt:
    """Condition: the key exists without a break since this revision (a leader's fence).

    value: and holds this, if it is given. Revisions are unique in one history of etcd; in one that was restored from a
    backup, another's key may be created at the very revision of ours that was lost.
    """

    key: str
    create_revision: int
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class NoneSince:
    """Condition: no key that begins with this was written after this revision."""

    prefix: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Writes a key, under a lease unless that is 0."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes a key, or all keys that begin with it."""

    key: str
    prefix: bool = False


def collect(pairs: Any, values: dict[str, KeyValue]) -> None:
    """Adds what etcd answered to `values`."""
    for pair in pairs:
        values[decode_key(pair.key)] = KeyValue(pair.value, pair.mod_revision, pair.create_revision, pair.lease)


def compare(condition: Unchanged | CreatedAt | NoneSince) -> list[Any]:
    """A condition as etcd's messages."""
    message = _etcdrpc.Compare
    if isinstance(condition, NoneSince):
        start, end = encode_key(condition.prefix), prefix_end(condition.prefix)
        after = condition.revision + 1
        return [message(key=start, range_end=end, result=message.LESS, target=message.MOD, mod_revision=after)]
    key = encode_key(condition.key)
    if isinstance(condition, Unchanged):
        written = message(key=key, result=message.EQUAL, target=message.MOD, mod_revision=condition.mod_revision)
    else:
        created_at = condition.create_revision
        written = message(key=key, result=message.EQUAL, target=message.CREATE, create_revision=created_at)
    if condition.value is None:
        return [written]
    return [written, message(key=key, result=message.EQUAL, target=message.VALUE, value=condition.value)]


def operate(operation: Put | Delete) -> Any:
    """An operation as etcd's message."""
    key = encode_key(operation.key)
    if isinstance(operation, Put):
        put = _etcdrpc.PutRequest(key=key, value=operation.value, lease=operation.lease)
        return _etcdrpc.RequestOp(request_put=put)
    end = prefix_end(operation.key) if operation.prefix else b""
    return _etcdrpc.RequestOp(request_delete_range=_etcdrpc.DeleteRangeRequest(key=key, range_end=end))


def encode_key(key: str) -> bytes:
    """A key as etcd's bytes."""
    if not key:
        raise ValueError("an etcd key must not be empty")
    return key.encode("utf-8", "surrogateescape")


def decode_key(key: bytes) -> str:
    """A key as text. Somebody else's bytes that are no UTF-8 survive the way back."""
    return key.decode("utf-8", "surrogateescape")


def prefix_end(prefix: str) -> bytes:
    """The first key after all that begin with `prefix`, as etcd wants a range's end."""
    key = encode_key(prefix).rstrip(b"\xff")
    return key[:-1] + bytes([key[-1] + 1]) if key else b"\0"
