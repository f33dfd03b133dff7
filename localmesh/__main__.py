"""`python -m localmesh`: up, down, status, demo."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from interceptors.errors import CredmeshError
from localmesh.control import ask, wait_until_down

_FOLDER: Final = Path(".mesh")
_DOWN_WITHIN: Final = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m localmesh", description="A whole mesh on this machine.")
    parser.add_argument(
        "--folder", type=Path, default=_FOLDER, help="its data, secrets and logs (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up_parser = commands.add_parser("up", help="bring a mesh up and keep it up until Ctrl-C")
    up_parser.add_argument("--any-ports", action="store_true", help="take free ports rather than the usual ones")
    commands.add_parser("down", help="stop the mesh that is up")
    commands.add_parser("status", help="show the parts of the mesh that is up")
    demo_parser = commands.add_parser("demo", help="play the story on the mesh that is up, or on one of its own")
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
        # What only a mesh that is brought up needs is loaded only then: asking one has to be quick.
        from localmesh.mesh import Options
        from localmesh.up import up

        return up(Options(folder=chosen.folder, any_ports=chosen.any_ports))
    if chosen.command == "demo":
        from localmesh.demo import demo

        return demo(folder=chosen.folder, report=chosen.report)
    if chosen.command == "down":
        ask(chosen.folder, do="down")
        wait_until_down(chosen.folder, _DOWN_WITHIN)
        print("the mesh is down")
        return 0
    for part in ask(chosen.folder, do="status")["parts"]:
        print(f"{part['name']:<12} {part['address']:<18} {part['state']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
