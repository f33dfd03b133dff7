"""A node of the test bed: `python -m chaos.entry.node sync` or `aio`."""

from __future__ import annotations

import os
import sys

from chaos.entry.process_setup import set_up


def main() -> None:
    """Serves `chaos.system.service` until it is stopped. Reads `ServiceSettings`."""
    set_up()
    import asyncio
    import threading

    from chaos.system import service
    from interceptors.serving import ServiceSettings, join_mesh, serve, serve_aio, service_process
    from interceptors.settings import read_settings

    service.load(float(os.environ["CHAOS_FRESHNESS"]))
    with service_process("chaos"):
        settings = read_settings(ServiceSettings)
        stopping = threading.Event()
        with join_mesh(settings) as node:
            if sys.argv[1] == "aio":
                asyncio.run(
                    serve_aio(
                        lambda server: server.add_generic_rpc_handlers((service.aio_handlers(node, stopping),)),
                        node=node,
                        settings=settings.server,
                        services=[service.SERVICE],
                        on_stop=[stopping.set],
                    )
                )
            else:
                serve(
                    lambda server: server.add_generic_rpc_handlers((service.sync_handlers(node, stopping),)),
                    node=node,
                    settings=settings.server,
                    services=[service.SERVICE],
                    workers=64,
                    on_stop=[stopping.set],
                )


if __name__ == "__main__":
    main()
