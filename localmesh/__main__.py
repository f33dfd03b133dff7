"""`python -m localmesh`: up, down, status, demo."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from interceptors.errors import CredmeshError
from localmesh.control import send_request, wait_until_down

_FOLDER: Final = Path(".mesh")
_DOWN_TIMEOUT_SECONDS: Final = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m localmesh", description="A whole mesh on this machine.")
    parser.add_argument(
        "--folder", type=Path, default=_FOLDER, help="the mesh's data, secrets and logs (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up_parser = commands.add_parser("up", help="start a mesh and keep it up until Ctrl-C")
    up_parser.add_argument("--any-ports", action="store_true", help="use free ports instead of the usual ones")
    commands.add_parser("down", help="stop the mesh that is up")
    commands.add_parser("status", help="show the parts of the mesh that is up")
    demo_parser = commands.add_parser("demo", help="run the demo on the mesh that is up, or on a temporary one")
    demo_parser.add_argument("--report", type=Path, default=Path("build/demo.json"), help="where the figures go")
    chosen = parser.parse_args(arguments)
    try:
        return _run(chosen)
    except CredmeshError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print(f"localmesh: {problem}", file=sys.stderr)
    return 1


def _run(chosen: argparse.Namespace) -> int:
    if chosen.command == "up":
        # Imported here, so that `status` and `down`, which do not need it, answer quickly.
        from localmesh.mesh import Options
        from localmesh.up import up

        return up(Options(folder=chosen.folder, any_ports=chosen.any_ports))
    if chosen.command == "demo":
        from localmesh.demo import demo

        return demo(folder=chosen.folder, report=chosen.report)
    if chosen.command == "down":
        send_request(chosen.folder, do="down")
        wait_until_down(chosen.folder, _DOWN_TIMEOUT_SECONDS)
        print("the mesh is down")
        return 0
    for part in send_request(chosen.folder, do="status")["parts"]:
        print(f"{part['name']:<12} {part['address']:<18} {part['state']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
