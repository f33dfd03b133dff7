"""Joining a mesh: a setting that cannot be used is named, with an example, and is never a traceback."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interceptors.errors import SettingsError
from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings
from localmesh.certs import development_certificates
from services.joining import aio_channel_to, channel_to, joined
from services.settings import OrdersSettings
from tests.support.running_mesh import environment

LIKE_CA = "for example: CREDMESH_CA_FILE=/etc/credmesh/ca.pem"
LIKE_SECRET = "for example: CREDMESH_CLIENT_SECRET_FILE=/etc/credmesh/client-secret"
LIKE_AUTH = "for example: CREDMESH_AUTH=10.0.0.1:8443,10.0.0.2:8443"
LIKE_TARGET = "for example: INVENTORY_TARGET=inventory:8443"


@pytest.fixture
def settings(etcd_settings: EtcdSettings, tmp_path: Path) -> OrdersSettings:
    """Settings that are good."""
    made = development_certificates(tmp_path / "tls")
    (tmp_path / "secret").write_text("a-secret")
    return OrdersSettings(
        mesh=MeshSettings(etcd=etcd_settings, service="orders", issuer="https://auth.test"),
        server=ServerSettings(listen="127.0.0.1:0", tls_cert_file=made.cert_file, tls_key_file=made.key_file),
        auth="127.0.0.1:1,127.0.0.1:2",
        ca_file=made.ca_file,
        client_id="services",
        client_secret_file=tmp_path / "secret",
        inventory="inventory:8443",
    )


def test_good_settings_join(settings: OrdersSettings) -> None:
    with joined(settings) as node, channel_to("INVENTORY_TARGET", settings.inventory, settings):
        assert node.settings is settings.mesh


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "holds no PEM certificate"),
        (b"nonsense", "holds no PEM certificate"),
        (
            b"-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n",
            "holds no PEM certificate",
        ),
    ],
)
@pytest.mark.parametrize("opener", [channel_to, aio_channel_to])
def test_a_ca_file_that_is_none_is_named(
    settings: OrdersSettings, tmp_path: Path, opener: Any, content: bytes | None, problem: str
) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    wrong = replace(settings, ca_file=ca_file)
    for attempt in (lambda: joined(wrong).__enter__(), lambda: opener("INVENTORY_TARGET", "inventory:8443", wrong)):
        with pytest.raises(SettingsError) as failed:
            attempt()
        assert str(failed.value) == f"CREDMESH_CA_FILE={ca_file} {problem}; {LIKE_CA}"


@pytest.mark.parametrize(
    ("auth", "problem"),
    [
        ("auth", "CREDMESH_AUTH='auth' is not host:port"),
        ("127.0.0.1:1,127.0.0.1", "CREDMESH_AUTH='127.0.0.1:1,127.0.0.1' is not host:port"),
        ("127.0.0.1:1,auth:1", "CREDMESH_AUTH: 'auth' in '127.0.0.1:1,auth:1' is not an IP address"),
        ("127.0.0.1:1,[::1]:1", "CREDMESH_AUTH: '127.0.0.1:1,[::1]:1' mixes IPv4 and IPv6"),
        ("10.0.0.1:1,10.0.0.2:1", "CREDMESH_AUTH: '10.0.0.1:1,10.0.0.2:1' has several hosts"),
    ],
)
def test_an_auth_service_that_cannot_be_meant_is_named(settings: OrdersSettings, auth: str, problem: str) -> None:
    with pytest.raises(SettingsError) as failed, joined(replace(settings, auth=auth)):
        pass
    assert str(failed.value).startswith(problem)
    assert str(failed.value).endswith(LIKE_AUTH)


@pytest.mark.parametrize("opener", [channel_to, aio_channel_to])
@pytest.mark.parametrize("target", ["inventory", "inventory:", "inventory:http", "127.0.0.1:1,inventory:1", " "])
def test_a_target_that_cannot_be_meant_is_named(settings: OrdersSettings, opener: Any, target: str) -> None:
    with pytest.raises(SettingsError, match=r"^INVENTORY_TARGET") as failed:
        opener("INVENTORY_TARGET", target, settings)
    assert str(failed.value).endswith(LIKE_TARGET)


@pytest.mark.parametrize("target", ["inventory:8443", "[::1]:8443", "dns:///inventory", "unix:/run/inventory.sock"])
def test_a_target_as_grpc_knows_them_is_taken(settings: OrdersSettings, target: str) -> None:
    with channel_to("INVENTORY_TARGET", target, settings) as channel:
        assert channel is not None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty, and should hold the secret of client 'services'"),
        (b"\xff\xfe", "is not text"),
    ],
)
def test_a_secret_file_that_holds_none_is_named(
    settings: OrdersSettings, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "client-secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as failed, joined(replace(settings, client_secret_file=path)):
        pass
    assert str(failed.value) == f"CREDMESH_CLIENT_SECRET_FILE={path} {problem}; {LIKE_SECRET}"


@pytest.mark.parametrize(
    ("service", "wrong", "said"),
    [
        ("orders", {"INVENTORY_TARGET": "inventory"}, f"INVENTORY_TARGET='inventory' is not host:port; {LIKE_TARGET}"),
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
