"""Counts of the calls of one method."""

from __future__ import annotations

__all__ = ["CallCounts"]


class CallCounts:
    """How many calls of one method were accepted and refused, and how many of its open streams were ended.

    The counts are plain integers, which cost a call next to nothing. CPython does not switch threads within `+= 1`; a
    build without the GIL may lose an increment now and then.
    """

    __slots__ = ("accepted", "ended", "refused")

    def __init__(self) -> None:
        self.accepted = 0
        self.refused: dict[str, int] = {}
        self.ended: dict[str, int] = {}

    def count_refused(self, reason: str) -> None:
        """Counts a refused call."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def count_ended(self, reason: str) -> None:
        """Counts an open stream that was ended."""
        self.ended[reason] = self.ended.get(reason, 0) + 1
