"""`python -m model`: searches every world, then every broken protocol, and reports the results.

python -m model                 all of it; exit code 1 if a promise is broken, or a broken protocol is not caught
python -m model NAME…           these worlds or variants only, with the whole path to the broken promise
python -m model --list          their names
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from model.search import SearchResult, explore
from model.variants import BROKEN, SPARE, Variant
from model.world import World
from model.worlds import WORLDS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the searches. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model", description="Checks the protocol, exhaustively.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these worlds and variants, with the full path")
    parser.add_argument("--list", action="store_true", help="list worlds and variants, and stop")
    options = parser.parse_args(arguments)
    if options.list:
        _list()
        return 0
    known = {world.name for world in WORLDS} | {variant.name for variant in (*BROKEN, *SPARE)}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"unknown world or variant: {', '.join(unknown)}; --list shows all names")
    names = set(options.names) or known
    began = time.process_time()
    good = [_world(world) for world in WORLDS if world.name in names]
    good += [_spare(variant) for variant in SPARE if variant.name in names]
    good += [_broken(variant, full=bool(options.names)) for variant in BROKEN if variant.name in names]
    seconds = time.process_time() - began
    print(f"\n{sum(good)} of {len(good)} searches gave the expected result, in {seconds:.0f} s of CPU time")
    return 0 if all(good) else 1


def _list() -> None:
    print("worlds:")
    for world in WORLDS:
        print(f"  {world.name:24} {world.bounds}")
    for title, variants in (
        ("broken protocols, to be caught", BROKEN),
        ("changed protocols that break nothing", SPARE),
    ):
        print(f"{title}:")
        for variant in variants:
            print(f"  {variant.name:24} {variant.description}")


def _world(world: World) -> bool:
    result = explore(world)
    print(f"{_mark(result.broken is None)} {world.name}: {world.bounds}")
    print(f"     {_size(result)}: {result.broken or 'no promise is broken'}", flush=True)
    if result.broken is not None:
        print(result.described())
    return result.broken is None


def _spare(variant: Variant) -> bool:
    result = explore(variant.world_to_search())
    print(f"{_mark(result.broken is None)} {variant.name}: {variant.description}")
    print(
        f"     {_size(result)}: {'no promise is broken by it' if result.broken is None else result.broken}", flush=True
    )
    if result.broken is not None:
        print(result.described())
    return result.broken is None


def _broken(variant: Variant, *, full: bool) -> bool:
    result = explore(variant.world_to_search())
    print(f"{_mark(result.broken is not None)} {variant.name}: {variant.description}")
    if result.broken is None:
        print(f"     {_size(result)}: NOT CAUGHT", flush=True)
    else:
        print(f"     caught after {len(result.trace)} steps: {result.broken}", flush=True)
        if full:
            print(result.described())
    return result.broken is not None


def _size(result: SearchResult) -> str:
    return f"{result.states:,} states, {result.steps:,} steps, {result.depth} deep, {result.seconds:.1f} s"


def _mark(good: bool) -> str:
    return "ok  " if good else "FAIL"


if __name__ == "__main__":
    sys.exit(main())
