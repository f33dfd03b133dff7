"""Epochs: per revocation scope, the etcd revision of its last revocation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["Epochs"]


class Epochs:
    """The last revocation of every scope that has one.

    One thread writes, any number read without a lock: each operation is a single dict operation. Whoever must not miss
    a write reads the bundle's generation first (see TrustBundle).
    """

    __slots__ = ("_revisions",)

    def __init__(self, revisions: Iterable[tuple[str, int]] = ()) -> None:
        self._revisions = dict(revisions)

    def __len__(self) -> int:
        return len(self._revisions)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(list(self._revisions.items()))

    def put(self, scope: str, revision: int) -> None:
        """The scope was revoked at this revision."""
        self._revisions[scope] = revision

    def drop(self, scope: str) -> None:
        """The scope's epoch has leased out: nothing that it could kill is left."""
        self._revisions.pop(scope, None)

    def revokes(self, scopes: Iterable[str], epoch: int) -> str | None:
        """The first of these scopes that was revoked after `epoch`, or None: the one rule of revocation."""
        revisions = self._revisions
        for scope in scopes:
            if revisions.get(scope, 0) > epoch:
                return scope
        return None
