"""The settings of the sample services: a wrong one is named in one line, with an example, and without a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from interceptors.settings import EtcdSettings
from tests.support.running_mesh import environment


@pytest.mark.parametrize(
    ("service", "wrong", "said"),
    [
        (
            "orders",
            {"INVENTORY_TARGET": "inventory"},
            "INVENTORY_TARGET='inventory' is not host:port; for example: INVENTORY_TARGET=inventory:8443",
        ),
        (
            "storefront",
            {"ORDERS_TARGET": "orders"},
            "ORDERS_TARGET='orders' is not host:port; for example: ORDERS_TARGET=orders:8443",
        ),
    ],
)
def test_a_service_with_a_wrong_setting_says_so_in_one_line(
    etcd_settings: EtcdSettings, service: str, wrong: dict[str, str], said: str
) -> None:
    good = {
        "ETCD_ENDPOINTS": ",".join(etcd_settings.endpoints),
        "CREDMESH_ETCD_PREFIX": etcd_settings.prefix,
        "CREDMESH_ISSUER": "https://auth.test",
        "CREDMESH_SERVICE": service,
        "CREDMESH_LISTEN": "127.0.0.1:0",
        "CREDMESH_PLAINTEXT": "true",
        "INVENTORY_TARGET": "127.0.0.1:1",
        "ORDERS_TARGET": "127.0.0.1:1",
    }
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env=environment(**good | wrong),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert line == f"{service}: {said}"
