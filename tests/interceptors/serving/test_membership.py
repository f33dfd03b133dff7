"""Joining the mesh: a setting that cannot be used is named, with an example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from interceptors.errors import SettingsError
from interceptors.serving import ServiceSettings, aio_propagating_channel, join_mesh, propagating_channel
from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings, setting
from localmesh.certs import development_certificates

LIKE_CA = "for example: CREDMESH_CA_FILE=/etc/credmesh/ca.pem"
LIKE_SECRET = "for example: CREDMESH_CLIENT_SECRET_FILE=/etc/credmesh/client-secret"
LIKE_AUTH = "for example: CREDMESH_AUTH=10.0.0.1:8443,10.0.0.2:8443"
LIKE_TARGET = "for example: INVENTORY_TARGET=inventory:8443"


@dataclass(frozen=True, kw_only=True)
class OrdersSettings(ServiceSettings):
    """The settings of a service that calls another one."""

    inventory: str = setting("INVENTORY_TARGET", "inventory:8443")


@pytest.fixture
def settings(etcd_settings: EtcdSettings, tmp_path: Path) -> OrdersSettings:
    """Settings that can be used."""
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


def test_a_service_joins_the_mesh_and_opens_channels(settings: OrdersSettings) -> None:
    with join_mesh(settings) as node, propagating_channel("INVENTORY_TARGET", settings.inventory, settings):
        assert node.settings is settings.mesh


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "contains no certificate in PEM, or one that cannot be read"),
        (b"nonsense", "contains no certificate in PEM, or one that cannot be read"),
        (
            b"-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n",
            "contains no certificate in PEM, or one that cannot be read",
        ),
    ],
)
@pytest.mark.parametrize("opener", [propagating_channel, aio_propagating_channel])
def test_a_ca_file_without_certificates_is_named(
    settings: OrdersSettings, tmp_path: Path, opener: Any, content: bytes | None, problem: str
) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    wrong = replace(settings, ca_file=ca_file)
    for attempt in (lambda: join_mesh(wrong).__enter__(), lambda: opener("INVENTORY_TARGET", "inventory:8443", wrong)):
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
def test_an_unusable_address_of_the_auth_service_is_named(settings: OrdersSettings, auth: str, problem: str) -> None:
    with pytest.raises(SettingsError) as failed, join_mesh(replace(settings, auth=auth)):
        pass
    assert str(failed.value).startswith(problem)
    assert str(failed.value).endswith(LIKE_AUTH)


@pytest.mark.parametrize("opener", [propagating_channel, aio_propagating_channel])
@pytest.mark.parametrize("target", ["inventory", "inventory:", "inventory:http", "127.0.0.1:1,inventory:1", " "])
def test_an_unusable_target_is_named(settings: OrdersSettings, opener: Any, target: str) -> None:
    with pytest.raises(SettingsError, match=r"^INVENTORY_TARGET") as failed:
        opener("INVENTORY_TARGET", target, settings)
    assert str(failed.value).endswith(LIKE_TARGET)


@pytest.mark.parametrize("target", ["inventory:8443", "[::1]:8443", "dns:///inventory", "unix:/run/inventory.sock"])
def test_every_form_of_grpc_target_is_accepted(settings: OrdersSettings, target: str) -> None:
    with propagating_channel("INVENTORY_TARGET", target, settings) as channel:
        assert channel is not None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty; it must hold a client's secret"),
        (b"\xff\xfe", "is not text; it must hold a client's secret"),
    ],
)
def test_a_secret_file_without_a_secret_is_named(
    settings: OrdersSettings, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "client-secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as failed, join_mesh(replace(settings, client_secret_file=path)):
        pass
    assert str(failed.value) == f"CREDMESH_CLIENT_SECRET_FILE={path} {problem}; {LIKE_SECRET}"
