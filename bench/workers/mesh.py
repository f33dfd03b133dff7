"""Measures the start of a whole local mesh: `python -m bench.workers.mesh CORES SETTINGS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.machine import pin
from localmesh.mesh import LocalMesh, Options

__all__ = ["main"]


def main() -> None:
    """Brings a mesh up, prints how long it took, and takes the mesh down when its input ends."""
    pin(json.loads(sys.argv[1]))
    folder = Path(json.loads(sys.argv[2])["folder"])
    mesh = LocalMesh(Options(folder=folder, any_ports=True), on_event=lambda *_: None)
    try:
        mesh.bring_up()
        print(json.dumps({"seconds": mesh.up_seconds}), flush=True)
        sys.stdin.read()
    finally:
        mesh.shut_down()


if __name__ == "__main__":
    main()
