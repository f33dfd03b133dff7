"""The clients: `python -m chaos.clients SETTINGS.json SEED`, until stdin ends.

Once a second it prints a line of JSON: how often each operation was answered how, since the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
from pathlib import Path
from typing import Any, Final

from chaos.clients.asking import Asking
from chaos.clients.attackers import stranger
from chaos.clients.operators import Desk, gravedigger, revoker, rotator
from chaos.clients.users import person, program
from chaos.clients.workload import Town
from chaos.history import History

_REVOKERS: Final = 10
_GRAVEDIGGERS: Final = 2


async def _until_told(tasks: list[asyncio.Task[None]]) -> None:
    """Until stdin ends, or a client fails in a way that nobody thought of."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    told = loop.create_task(reader.read())
    done, _ = await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {told}:
        task.result()


async def _tell(asking: Asking, history: History) -> None:
    while True:
        await asyncio.sleep(1)
        history.flush()
        print(json.dumps(asking.counts), flush=True)


async def _run(settings: dict[str, Any], seed: int) -> None:
    with History(Path(settings["history"]), "clients") as history:
        asking = Asking(history, settings["auths"], settings["nodes"], settings["token_lifetime"])
        town = Town(asking, settings, seed)
        desk = Desk(town)
        work: list[Any] = [person(town, subject) for subject in settings["users"]]
        work += [program(town, client) for client in settings["programs"]]
        work += [revoker(town, desk, number, wait=number >= settings["hasty"]) for number in range(_REVOKERS)]
        work += [gravedigger(town, number) for number in range(_GRAVEDIGGERS)]
        work += [stranger(town), _tell(asking, history)]
        if settings["rotates"]:
            work.append(rotator(town, desk))
        tasks = [asyncio.create_task(one) for one in work]
        try:
            await _until_told(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await town.close()
            await asking.close()
        print(json.dumps(asking.counts), flush=True)


def main() -> None:
    """Runs the clients."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(settings, int(sys.argv[2])))


if __name__ == "__main__":
    main()
