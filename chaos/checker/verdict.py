"""What the checker says of an invariant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Verdict", "Violation"]

_MOST_KEPT: Final = 300


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken: what happened, and the records that show it."""

    what: str
    records: tuple[Any, ...]


@dataclass(slots=True)
class Verdict:
    """What was found.

    checked     how often the promise was put to the test, by what was tested
    violations  the first ones that were found
    violated    how many there were
    undecided   how often the history did not say enough, by why
    """

    checked: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    violated: int = 0
    undecided: dict[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether no violation was found."""
        return self.violated == 0

    def count(self, what: str, times: int = 1) -> None:
        """The promise was put to the test."""
        self.checked[what] = self.checked.get(what, 0) + times

    def violate(self, what: str, *records: Any) -> None:
        """It was broken."""
        self.violated += 1
        if len(self.violations) < _MOST_KEPT:
            self.violations.append(Violation(what, records))

    def leave_open(self, why: str) -> None:
        """The history does not say enough."""
        self.undecided[why] = self.undecided.get(why, 0) + 1
