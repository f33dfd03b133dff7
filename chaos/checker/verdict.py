"""The checker's verdict on an invariant."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Verdict", "Violation"]

_MAX_VIOLATIONS: Final = 300


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: what happened, and the records that show it."""

    what: str
    records: tuple[Any, ...]

    @property
    def answered(self) -> float:
        """When the newest of its records was answered, by the clock of the operation log; -infinity if none was."""
        times = [record["u"] for record in self.records if isinstance(record, dict) and "u" in record]
        return max(times, default=-math.inf)


@dataclass(slots=True)
class Verdict:
    """The verdict on one invariant.

    checked     how often the promise was put to the test, by kind of test
    violations  the first violations
    violated    the number of violations
    undecided   how often the operation log does not decide the case, by reason
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
        """Counts tests of the promise."""
        self.checked[what] = self.checked.get(what, 0) + times

    def violate(self, what: str, *records: Any) -> None:
        """Adds a violation."""
        self.violated += 1
        if len(self.violations) < _MAX_VIOLATIONS:
            self.violations.append(Violation(what, records))

    def exempt(self, since: float, until: float, why: str) -> None:
        """Counts violations of a period as undecided instead: those whose newest record was answered in it."""
        kept = [one for one in self.violations if not since < one.answered <= until]
        exempted = len(self.violations) - len(kept)
        if exempted:
            self.violations = kept
            self.violated -= exempted
            self.undecided[why] = self.undecided.get(why, 0) + exempted

    def leave_open(self, why: str) -> None:
        """Counts a case that the operation log does not decide."""
        self.undecided[why] = self.undecided.get(why, 0) + 1
