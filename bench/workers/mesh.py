"""Times the start of a whole local mesh: `python -m bench.workers.mesh CORES SETTINGS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.machine import pin
from localmesh.mesh import LocalMesh, Options

__all__ = ["main"]


def main() -> None:
    """Brings it up, says so, and takes it down when its input ends."""
    pin(json.loads(sys.argv[1]))
    folder = Path(json.loads(sys.argv[2])["folder"])
    mesh = LocalMesh(Options(folder=folder, any_ports=True), tell=lambda *_: None)
    try:
        mesh.bring_up()
        print(json.dumps({"seconds": mesh.up_seconds}), flush=True)
        sys.stdin.read()
    finally:
        mesh.take_down()


if __name__ == "__main__":
    main()
