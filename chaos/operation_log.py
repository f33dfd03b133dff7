"""The operation log: append-only JSON lines of what was asked, what was answered, when, and by which client.

Every process of the test bed appends to its own file, and a reader merges the files. Times are seconds of the host's
CLOCK_MONOTONIC, which all processes of one machine share and no fault changes. A record is written when the answer is
there, or the client has given up, with both times:

    {"op": "call", "t": asked, "u": answered, "by": "user-3", …}

The modules that write operations describe their records: `clients.asking`, `observer`, `run`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["OperationLog", "Record", "read_operation_log"]

Record = dict[str, Any]

_SUFFIX: Final = ".jsonl"


class OperationLog:
    """One process's part of the operation log. Thread-safe."""

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{writer}{_SUFFIX}").open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, op: str, *, by: str, asked: float, answered: float | None = None, **fields: Any) -> None:
        """Appends a record. `answered` defaults to now."""
        record = {"op": op, "t": asked, "u": time.monotonic() if answered is None else answered, "by": by, **fields}
        line = json.dumps(record, separators=(",", ":")) + "\n"
        with self._lock:
            if not self._file.closed:
                self._file.write(line)

    def flush(self) -> None:
        """Flushes the records to the file."""
        with self._lock:
            if not self._file.closed:
                self._file.flush()

    def close(self) -> None:
        """Closes the file; later records are dropped."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_operation_log(folder: Path) -> list[Record]:
    """Reads all records of a run, ordered by the time at which they were asked.

    Leaves out an incomplete last line of a file, whose writer was killed. ValueError for any other malformed line.
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
