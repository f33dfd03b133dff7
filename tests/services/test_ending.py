"""A service that waits for etcd ends at the first signal."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from localmesh.processes.process import Process
from tests.support.running_mesh import environment
from tests.support.waiting import free_port, wait_until


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
@pytest.mark.parametrize("service", ["storefront", "orders", "inventory"])
def test_a_service_that_waits_for_etcd_ends_at_the_first_signal(
    service: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = Process(
        [sys.executable, "-m", f"services.{service}"],
        environment=environment(
            ETCD_ENDPOINTS=f"127.0.0.1:{free_port()}",
            CREDMESH_ETCD_TIMEOUT="0.5",
            CREDMESH_ISSUER="https://auth.test",
            CREDMESH_SERVICE=service,
            CREDMESH_LISTEN="127.0.0.1:0",
            CREDMESH_PLAINTEXT="true",
            INVENTORY_TARGET="127.0.0.1:1",
            ORDERS_TARGET="127.0.0.1:1",
        ),
        log_file=tmp_path / "log",
    )
    process.start()
    try:
        wait_until(lambda: "does not answer" in process.log_file.read_text(), 30, "it says what it waits for")
        os.kill(process.pid or 0, number)
        assert process.wait(20)
        assert process.exit_code == code
        assert "Traceback" not in process.log_file.read_text()
    finally:
        process.kill()
