"""Counting the calls of one method."""

from __future__ import annotations

__all__ = ["CallCounts"]


class CallCounts:
    """How many calls of one method were let in and refused.

    Plain integers, so that counting costs a call nothing. Their `+= 1` has no point at which CPython switches threads;
    a build without the GIL may lose one now and then.
    """

    __slots__ = ("accepted", "ended", "refused")

    def __init__(self) -> None:
        self.accepted = 0
        self.refused: dict[str, int] = {}
        self.ended: dict[str, int] = {}

    def refuse(self, reason: str) -> None:
        """A call was refused."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def end(self, reason: str) -> None:
        """An open stream was ended."""
        self.ended[reason] = self.ended.get(reason, 0) + 1
