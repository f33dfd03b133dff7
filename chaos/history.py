"""The history: append-only JSON lines of what was asked, what was answered, when, and by whom.

Every process of the test bed appends to a file of its own, and a reader merges them. Times are seconds of the host's
CLOCK_MONOTONIC, which all processes of one machine share, and which no fault touches. A record is written when its
answer is there (or the asker gave up), with both times:

    {"op": "call", "t": asked, "u": answered, "by": "person-3", …}

What the operations are and what their records hold is said where they are written: `clients.asking`, `observer`, `run`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["History", "Record", "read_history"]

Record = dict[str, Any]

_SUFFIX: Final = ".jsonl"


class History:
    """One process's part of the history. Thread-safe."""

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{writer}{_SUFFIX}").open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, op: str, *, by: str, asked: float, answered: float | None = None, **fields: Any) -> None:
        """Appends a record; `answered` is now unless it is given."""
        record = {"op": op, "t": asked, "u": time.monotonic() if answered is None else answered, "by": by, **fields}
        line = json.dumps(record, separators=(",", ":")) + "\n"
        with self._lock:
            if not self._file.closed:
                self._file.write(line)

    def flush(self) -> None:
        """Brings what was written to the file."""
        with self._lock:
            if not self._file.closed:
                self._file.flush()

    def close(self) -> None:
        """Ends it; what comes later is dropped."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_history(folder: Path) -> list[Record]:
    """All records of a run, in the order in which they were asked.

    The last line of a file may be cut off, if its writer was: it is left out. ValueError for any other broken line.
    """
    records = [record for path in sorted(folder.glob(f"*{_SUFFIX}")) for record in _records(path)]
    records.sort(key=lambda record: record["t"])
    return records


def _records(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)
