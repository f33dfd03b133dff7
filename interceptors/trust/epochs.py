"""Epochs: per revocation scope, the etcd revision of its last revocation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["Epochs"]

_BUCKETS: Final = 1 << 16


class Epochs:
    """The epochs of all revoked scopes.

    A dict of a million epochs takes 140 MB. So epochs are stored as lines of text in many strings (buckets), chosen by
    the scope's hash: this takes little more than their characters, and a lookup searches some hundred characters.

    One thread writes, and any number read without a lock, since each change replaces one string. A reader that must not
    miss a write reads the bundle's version first (see TrustBundle).
    """

    __slots__ = ("_buckets", "_count")

    def __init__(self, revisions: Iterable[tuple[str, int]] = ()) -> None:
        self._buckets: dict[int, str] = {}  # "\n", then for each of its scopes "scope\trevision\n"
        self._count = 0
        for scope, revision in revisions:
            self.put(scope, revision)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for bucket in list(self._buckets.values()):
            for line in bucket.split("\n")[1:-1]:
                scope, _, revision = line.partition("\t")
                yield scope, int(revision)

    def put(self, scope: str, revision: int) -> None:
        """Sets a scope's epoch."""
        if "\n" in scope or "\t" in scope:
            return  # a foreign key: scopes are percent-encoded, so no credential belongs to this one
        self._replace(scope, f"{scope}\t{revision}\n")

    def drop(self, scope: str) -> None:
        """Removes a scope's epoch. Its lease expires only when every credential that it revokes has expired."""
        self._replace(scope, "")

    def find_revoked_scope(self, scopes: Iterable[str], epoch: int) -> str | None:
        """Returns the first of these scopes whose epoch is greater than `epoch`, or None: the rule of revocation."""
        buckets = self._buckets
        for scope in scopes:
            bucket = buckets.get(hash(scope) % _BUCKETS)
            if bucket is not None:
                start = bucket.find(f"\n{scope}\t")
                if start >= 0 and int(bucket[start + len(scope) + 2 : bucket.index("\n", start + 1)]) > epoch:
                    return scope
        return None

    def _replace(self, scope: str, line: str) -> None:
        """Replaces the scope's line, or appends it. An empty line removes the scope."""
        at = hash(scope) % _BUCKETS
        bucket = self._buckets.get(at, "\n")
        begin = bucket.find(f"\n{scope}\t") + 1
        end = bucket.index("\n", begin) + 1 if begin else len(bucket)
        self._count += bool(line) - bool(begin)
        bucket = bucket[: begin or end] + line + bucket[end:]
        if len(bucket) > 1:
            self._buckets[at] = bucket
        else:
            self._buckets.pop(at, None)
