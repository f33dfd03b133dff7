"""The test bed's end of the network: which links there are, and what is done to them. See `network`."""

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

from chaos.system.network import Way
from localmesh.processes.process import leashed

__all__ = ["Pair", "Wires"]

Pair = tuple[str, str]

_STOP_TIMEOUT: Final = 5.0


class Wires:
    """A running network. Not thread-safe."""

    def __init__(self, log_file: Path) -> None:
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                leashed([sys.executable, "-m", "chaos.system.network"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(os.environ),
                text=True,
            )
        self._refused: set[Pair] = set()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def links(self, wanted: Sequence[tuple[str, str, str]]) -> dict[Pair, str]:
        """Opens links (source, destination, target as host:port); the address that stands for each."""
        ports = self._order({"links": wanted})["ports"]
        return {
            (source, destination): f"127.0.0.1:{port}"
            for (source, destination, _), port in zip(wanted, ports, strict=True)
        }

    def members(self, names: Mapping[str, str]) -> None:
        """Says who etcd's peers are: names by member id in hex."""
        self._order({"members": dict(names)})

    def ways(self, ways: Mapping[Pair, Way]) -> None:
        """Sets what becomes of bytes, per direction."""
        self._order({"ways": [[*pair, asdict(way)] for pair, way in ways.items()]})

    def refuse(self, pairs: Iterable[Pair]) -> None:
        """Resets the connections between these, whoever opened them, and refuses new ones until they are allowed.

        Members of etcd connect to each other both ways.
        """
        pairs = _either_way(pairs)
        self._refused |= set(pairs)
        self._order({"refuse": sorted(self._refused), "break": pairs})

    def allow(self, pairs: Iterable[Pair]) -> None:
        """Takes back `refuse`."""
        self._refused -= set(_either_way(pairs))
        self._order({"refuse": sorted(self._refused)})

    def stop(self) -> None:
        """Ends the network."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _either_way(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted({one for source, destination in pairs for one in ((source, destination), (destination, source))})
