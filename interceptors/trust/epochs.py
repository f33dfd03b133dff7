"""Epochs: per revocation scope, the etcd revision of its last revocation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["Epochs"]

_BUCKETS: Final = 1 << 16


class Epochs:
    """The last revocation of every scope that has one.

    A dict of a million of them takes 140 MB on every node. So they lie end to end as lines of text, in one of many
    strings, which the scope's hash picks: little more than their own characters, and a look-up searches some hundred.

    One thread writes, any number read without a lock: each change replaces one string by another. Whoever must not miss
    a write reads the bundle's generation first (see TrustBundle).
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
        """The scope was revoked at this revision."""
        if "\n" in scope or "\t" in scope:
            return  # somebody else's key: names of ours are percent-encoded, so no credential belongs to it
        self._replace(scope, f"{scope}\t{revision}\n")

    def drop(self, scope: str) -> None:
        """The scope's epoch has leased out: nothing that it could kill is left."""
        self._replace(scope, "")

    def revokes(self, scopes: Iterable[str], epoch: int) -> str | None:
        """The first of these scopes that was revoked after `epoch`, or None: the one rule of revocation."""
        buckets = self._buckets
        for scope in scopes:
            bucket = buckets.get(hash(scope) % _BUCKETS)
            if bucket is not None:
                found = bucket.find(f"\n{scope}\t")
                if found >= 0 and int(bucket[found + len(scope) + 2 : bucket.index("\n", found + 1)]) > epoch:
                    return scope
        return None

    def _replace(self, scope: str, line: str) -> None:
        """Puts this line where the scope's was, or at the end; an empty one takes the scope away."""
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
