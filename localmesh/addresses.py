"""The addresses of a local mesh's parts: the same at every start, as long as their ports are free."""

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
"""The ports that a new mesh uses if they are free."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The ports by name, and the ports that had to move: (name, preferred port, port in use)."""

    ports: Mapping[str, int]
    moved: tuple[tuple[str, int, int], ...] = ()

    def of(self, name: str) -> str:
        """The address of a name, as host:port."""
        return f"{HOST}:{self.ports[name]}"


def choose_addresses(remembered: Path, *, preferred: Mapping[str, int] = PREFERRED) -> Addresses:
    """Chooses ports and writes them to the file `remembered`. LocalMeshError if the machine has no free port.

    The port that the file remembers comes first, then the preferred port, then any free port. A preferred port of 0
    means any free port.
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
