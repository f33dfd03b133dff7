"""The links of the test bed's network, and how to cut and slow them. See `network`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from chaos.system.network import LinkCondition
from localmesh.processes.process import tied_to_parent

__all__ = ["NetworkLinks", "Pair"]

Pair = tuple[str, str]

_STOP_TIMEOUT_SECONDS: Final = 5.0


class NetworkLinks:
    """A running network process. Not thread-safe."""

    def __init__(self, log_file: Path) -> None:
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                tied_to_parent([sys.executable, "-m", "chaos.system.network"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(os.environ),
                text=True,
            )
        self._refused: set[Pair] = set()

    def open_links(self, wanted: Sequence[tuple[str, str, str]]) -> dict[Pair, str]:
        """Opens links (source, destination, target as host:port). Returns the address to connect to, for each."""
        ports = self._send({"links": wanted})["ports"]
        return {
            (source, destination): f"127.0.0.1:{port}"
            for (source, destination, _), port in zip(wanted, ports, strict=True)
        }

    def set_etcd_members(self, names: Mapping[str, str]) -> None:
        """Names the members of etcd, by their ids in hex."""
        self._send({"members": dict(names)})

    def set_conditions(self, conditions: Mapping[Pair, LinkCondition]) -> None:
        """Sets what happens to bytes, by direction."""
        self._send({"conditions": [[*pair, asdict(condition)] for pair, condition in conditions.items()]})

    def refuse(self, pairs: Iterable[Pair]) -> None:
        """Resets the connections between these parts, in both directions, and refuses new ones until `allow`.

        Both directions, because members of etcd connect to each other both ways.
        """
        pairs = _either_way(pairs)
        self._refused |= set(pairs)
        self._send({"refuse": sorted(self._refused), "break": pairs})

    def allow(self, pairs: Iterable[Pair]) -> None:
        """Ends a `refuse`."""
        self._refused -= set(_either_way(pairs))
        self._send({"refuse": sorted(self._refused)})

    def stop(self) -> None:
        """Ends the network process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _send(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _either_way(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted({one for source, destination in pairs for one in ((source, destination), (destination, source))})
