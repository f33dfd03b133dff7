"""Where the parts of a local mesh listen: at the same addresses every time, if they are free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from localmesh.processes.ports import HOST, free_port, is_free

__all__ = ["PREFERRED", "Addresses", "choose_addresses"]

PREFERRED: Final[Mapping[str, int]] = {
    "etcd": 7379,
    "auth-1": 7401,
    "auth-2": 7402,
    "auth-1 http": 7411,
    "auth-2 http": 7412,
    "storefront": 7421,
    "orders": 7422,
    "inventory": 7423,
    "storefront metrics": 7431,
    "orders metrics": 7432,
    "inventory metrics": 7433,
}
"""The ports that a new mesh takes if they are free."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The ports by what they are for, and which of them had to move: (name, wanted, used instead)."""

    ports: Mapping[str, int]
    moved: tuple[tuple[str, int, int], ...] = ()

    def of(self, name: str) -> str:
        """host:port."""
        return f"{HOST}:{self.ports[name]}"


def choose_addresses(remembered: Path, *, preferred: Mapping[str, int] = PREFERRED) -> Addresses:
    """Takes the ports that the file remembers, else the preferred ones, else free ones, and remembers what it took.

    A port of 0 stands for any. LocalMeshError if the machine has no free port.
    """
    chosen: dict[str, int] = {}
    moved: list[tuple[str, int, int]] = []
    for name, wanted in {**preferred, **_read(remembered, preferred)}.items():
        port = wanted
        while not port or port in chosen.values() or not is_free(port):
            port = free_port()
        if wanted and port != wanted:
            moved.append((name, wanted, port))
        chosen[name] = port
    remembered.write_text(json.dumps(chosen, indent=2) + "\n")
    return Addresses(chosen, tuple(moved))


def _read(remembered: Path, known: Mapping[str, int]) -> dict[str, int]:
    try:
        found = json.loads(remembered.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: port for name, port in found.items() if name in known and type(port) is int and 0 < port < 65536}
