"""The values of etcd reads and writes, and their translation to etcd's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from interceptors.etcd.compat import import_etcdrpc

__all__ = [
    "Condition",
    "CreatedAt",
    "Delete",
    "KeyValue",
    "NoneSince",
    "Present",
    "Put",
    "Snapshot",
    "Transaction",
    "Unchanged",
    "UnderLease",
    "UnwrittenSince",
    "collect_pairs",
    "compare_messages",
    "decode_key",
    "encode_key",
    "operation_message",
    "prefix_end",
]

_etcdrpc: Final = import_etcdrpc()


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key's value with its etcd revisions; `lease` is 0 if the key has none."""

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

    value: if given, the key must also hold this. In a restored etcd another write may have the revision that ours had
    before the restore.
    """

    key: str
    mod_revision: int
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class CreatedAt:
    """Condition: the key has existed without interruption since this revision (a leader's fence).

    value: if given, the key must also hold this. Revisions are unique only within one history: in a restored etcd
    another process may have created the key at the revision of the lost one.
    """

    key: str
    create_revision: int
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class NoneSince:
    """Condition: no key that begins with this prefix was written after this revision."""

    prefix: str
    revision: int


@dataclass(frozen=True, slots=True)
class UnwrittenSince:
    """Condition: the key was not written after this revision. An absent key meets it."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Present:
    """Condition: the key exists."""

    key: str


@dataclass(frozen=True, slots=True)
class UnderLease:
    """Condition: the key exists and is under this lease."""

    key: str
    lease: int


Condition = Unchanged | CreatedAt | NoneSince | UnwrittenSince | Present | UnderLease


@dataclass(frozen=True, slots=True)
class Put:
    """Writes a key, under a lease unless `lease` is 0."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes a key, or all keys that begin with it."""

    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Transaction:
    """Operations that are executed together if all conditions hold, and not at all otherwise."""

    conditions: Sequence[Condition]
    operations: Sequence[Put | Delete]


def collect_pairs(pairs: Any, values: dict[str, KeyValue]) -> None:
    """Adds etcd's KeyValue messages to `values`, by key."""
    for pair in pairs:
        values[decode_key(pair.key)] = KeyValue(pair.value, pair.mod_revision, pair.create_revision, pair.lease)


def compare_messages(condition: Condition) -> list[Any]:
    """Returns a condition as etcd's Compare messages."""
    message = _etcdrpc.Compare
    if isinstance(condition, NoneSince):
        start, end = encode_key(condition.prefix), prefix_end(condition.prefix)
        after = condition.revision + 1
        return [message(key=start, range_end=end, result=message.LESS, target=message.MOD, mod_revision=after)]
    key = encode_key(condition.key)
    if isinstance(condition, UnwrittenSince):
        # etcd compares an absent key as one that was written at revision 0.
        after = condition.revision + 1
        return [message(key=key, result=message.LESS, target=message.MOD, mod_revision=after)]
    if isinstance(condition, Present):
        return [message(key=key, result=message.GREATER, target=message.CREATE, create_revision=0)]
    if isinstance(condition, UnderLease):
        return [message(key=key, result=message.EQUAL, target=message.LEASE, lease=condition.lease)]
    if isinstance(condition, Unchanged):
        written = message(key=key, result=message.EQUAL, target=message.MOD, mod_revision=condition.mod_revision)
    else:
        created = condition.create_revision
        written = message(key=key, result=message.EQUAL, target=message.CREATE, create_revision=created)
    if condition.value is None:
        return [written]
    return [written, message(key=key, result=message.EQUAL, target=message.VALUE, value=condition.value)]


def operation_message(operation: Put | Delete) -> Any:
    """Returns an operation as etcd's RequestOp message."""
    key = encode_key(operation.key)
    if isinstance(operation, Put):
        put = _etcdrpc.PutRequest(key=key, value=operation.value, lease=operation.lease)
        return _etcdrpc.RequestOp(request_put=put)
    end = prefix_end(operation.key) if operation.prefix else b""
    return _etcdrpc.RequestOp(request_delete_range=_etcdrpc.DeleteRangeRequest(key=key, range_end=end))


def encode_key(key: str) -> bytes:
    """Returns a key as etcd's bytes."""
    if not key:
        raise ValueError("an etcd key must not be empty")
    return key.encode("utf-8", "surrogateescape")


def decode_key(key: bytes) -> str:
    """Returns a key as text. `encode_key` restores even bytes that are not UTF-8, as a foreign key may have."""
    return key.decode("utf-8", "surrogateescape")


def prefix_end(prefix: str) -> bytes:
    """Returns the first key after all that begin with `prefix`: the end of etcd's range."""
    key = encode_key(prefix).rstrip(b"\xff")
    return key[:-1] + bytes([key[-1] + 1]) if key else b"\0"
