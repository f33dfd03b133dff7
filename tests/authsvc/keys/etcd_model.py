"""A model of etcd in memory: revisions, conditions, operations, and no more than the rotation relies on.

A property test can try thousands of histories of late, lost and repeated commits on it, which a real etcd cannot be
made to produce. The code under test is the same as on a real etcd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, KeyValue, Put, Snapshot, Unchanged
from interceptors.settings import EtcdSettings

__all__ = ["ModelEtcd"]


class ModelEtcd:
    """Reads are linearizable, and commits are atomic."""

    def __init__(self) -> None:
        self.settings = EtcdSettings(endpoints=("model:1",))
        self.values: dict[str, KeyValue] = {}
        self.revision = 1
        self.leases: dict[int, int] = {}

    @property
    def client(self) -> EtcdClient:
        """The model, typed as a client."""
        return cast(EtcdClient, self)

    def read(self, *keys: str) -> Snapshot:
        return Snapshot({key: self.values[key] for key in keys if key in self.values}, self.revision)

    def read_prefix(self, prefix: str, *, revision: int = 0) -> Snapshot:
        assert revision in (0, self.revision), "the model does not change between two reads"
        return Snapshot({key: entry for key, entry in self.values.items() if key.startswith(prefix)}, self.revision)

    def commit(self, conditions: Sequence[Unchanged | CreatedAt], operations: Sequence[Put | Delete]) -> int | None:
        assert operations
        if not all(self._holds(condition) for condition in conditions):
            return None
        written = [operation.key for operation in operations if isinstance(operation, Put)]
        assert len(written) == len(set(written)), "etcd refuses to put a key twice in one transaction"
        self.revision += 1
        for operation in operations:
            if isinstance(operation, Put):
                before = self.values.get(operation.key)
                created = self.revision if before is None else before.create_revision
                self.values[operation.key] = KeyValue(operation.value, self.revision, created, operation.lease)
            else:
                gone = [
                    key
                    for key in self.values
                    if key == operation.key or (operation.prefix and key.startswith(operation.key))
                ]
                assert not set(gone) & set(written), "etcd refuses to put and delete a key in one transaction"
                for key in gone:
                    del self.values[key]
        return self.revision

    def grant(self, ttl: int, lease_id: int = 0) -> int:
        """No time passes here, so leases never expire."""
        lease_id = lease_id or len(self.leases) + 1
        self.leases[lease_id] = ttl
        return lease_id

    def keep_alive(self, lease_id: int) -> int:
        return self.leases.get(lease_id, 0)

    def _holds(self, condition: Unchanged | CreatedAt) -> bool:
        entry = self.values.get(condition.key)
        if isinstance(condition, Unchanged):
            return condition.mod_revision == (0 if entry is None else entry.mod_revision)
        return entry is not None and entry.create_revision == condition.create_revision
