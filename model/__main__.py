"""`python -m model`: searches every world, then every broken protocol, and tells what it found.

python -m model                 all of it; exit code 1 if a promise is broken, or a broken protocol is not caught
python -m model NAME…           these worlds or variants only, with the whole way to what is broken
python -m model --list          their names
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from model.search import Found, explore
from model.variants import BROKEN, SPARE, Variant
from model.worlds import WORLDS, World

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the searches; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model", description="Checks the protocol, exhaustively.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these worlds and variants, told in full")
    parser.add_argument("--list", action="store_true", help="list worlds and variants, and stop")
    options = parser.parse_args(arguments)
    if options.list:
        _list()
        return 0
    known = {world.name for world in WORLDS} | {variant.name for variant in (*BROKEN, *SPARE)}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; --list shows what there is")
    names = set(options.names) or known
    began = time.process_time()
    good = [_world(world) for world in WORLDS if world.name in names]
    good += [_spare(variant) for variant in SPARE if variant.name in names]
    good += [_broken(variant, told=bool(options.names)) for variant in BROKEN if variant.name in names]
    seconds = time.process_time() - began
    print(f"\n{sum(good)} of {len(good)} as they should be, in {seconds:.0f} s of CPU time")
    return 0 if all(good) else 1


def _list() -> None:
    print("worlds:")
    for world in WORLDS:
        print(f"  {world.name:24} {world.bounds}")
    for title, variants in (("protocols that must be caught", BROKEN), ("and that break nothing", SPARE)):
        print(f"{title}:")
        for variant in variants:
            print(f"  {variant.name:24} {variant.says}")


def _world(world: World) -> bool:
    found = explore(world)
    print(f"{_mark(found.broken is None)} {world.name}: {world.bounds}")
    print(f"     {_size(found)}: {'no promise is broken' if found.broken is None else found.broken}", flush=True)
    if found.broken is not None:
        print(found.told())
    return found.broken is None


def _spare(variant: Variant) -> bool:
    found = explore(variant.searched())
    print(f"{_mark(found.broken is None)} {variant.name}: {variant.says}")
    print(f"     {_size(found)}: {'no promise is broken by it' if found.broken is None else found.broken}", flush=True)
    if found.broken is not None:
        print(found.told())
    return found.broken is None


def _broken(variant: Variant, *, told: bool) -> bool:
    found = explore(variant.searched())
    print(f"{_mark(found.broken is not None)} {variant.name}: {variant.says}")
    if found.broken is None:
        print(f"     {_size(found)}: NOT CAUGHT", flush=True)
    else:
        print(f"     caught after {len(found.trace)} steps: {found.broken}", flush=True)
        if told:
            print(found.told())
    return found.broken is not None


def _size(found: Found) -> str:
    return f"{found.states:,} states, {found.steps:,} steps, {found.depth} deep, {found.seconds:.1f} s"


def _mark(good: bool) -> str:
    return "ok  " if good else "FAIL"


if __name__ == "__main__":
    sys.exit(main())
