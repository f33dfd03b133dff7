"""The clients: `python -m chaos.clients SETTINGS.json SEED`, until stdin ends.

Prints a line of JSON once a second: the number of answers since the start, by operation and answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
from pathlib import Path
from typing import Any, Final

from chaos.clients.attackers import run_attacker
from chaos.clients.mesh_client import MeshClient
from chaos.clients.operators import OperatorCredential, run_replayer, run_revoking_operator, run_rotating_operator
from chaos.clients.users import run_program, run_user
from chaos.clients.workload import Workload
from chaos.operation_log import OperationLog

_REVOKING_OPERATORS: Final = 10
_REPLAYERS: Final = 2


async def _run_until_stopped(tasks: list[asyncio.Task[None]]) -> None:
    """Waits until stdin ends. Raises a client's unexpected exception."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    stdin_ended = loop.create_task(reader.read())
    done, _ = await asyncio.wait([stdin_ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {stdin_ended}:
        task.result()


async def _report_counts(mesh: MeshClient, operation_log: OperationLog) -> None:
    while True:
        await asyncio.sleep(1)
        operation_log.flush()
        print(json.dumps(mesh.counts), flush=True)


async def _run(settings: dict[str, Any], seed: int) -> None:
    with OperationLog(Path(settings["operation_log"]), "clients") as operation_log:
        mesh = MeshClient(operation_log, settings["auths"], settings["nodes"], settings["token_lifetime"])
        workload = Workload(mesh, settings, seed)
        login = OperatorCredential(workload)
        work: list[Any] = [run_user(workload, subject) for subject in settings["users"]]
        work += [run_program(workload, client) for client in settings["programs"]]
        work += [
            run_revoking_operator(workload, login, number, wait=number >= settings["operators_not_waiting"])
            for number in range(_REVOKING_OPERATORS)
        ]
        work += [run_replayer(workload, number) for number in range(_REPLAYERS)]
        work += [run_attacker(workload), _report_counts(mesh, operation_log)]
        if settings["rotates"]:
            work.append(run_rotating_operator(workload, login))
        tasks = [asyncio.create_task(one) for one in work]
        try:
            await _run_until_stopped(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await workload.close()
            await mesh.close()
        print(json.dumps(mesh.counts), flush=True)


def main() -> None:
    """Runs the clients."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(settings, int(sys.argv[2])))


if __name__ == "__main__":
    main()
