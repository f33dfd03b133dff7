"""Settings: an error names the variable that is absent or wrong, with an example."""

from __future__ import annotations

from pathlib import Path

import pytest

from interceptors import MeshSettings, ServerSettings, SettingsError, read_settings

GOOD = {"ETCD_ENDPOINTS": "10.0.0.1:2379, 10.0.0.2:2379", "CREDMESH_SERVICE": "orders", "CREDMESH_ISSUER": "https://a"}


def test_settings_are_converted_to_their_types() -> None:
    settings = read_settings(MeshSettings, {**GOOD, "CREDMESH_LEEWAY": "2.5", "ETCD_CA_FILE": "/ca.pem"})
    assert settings.etcd.endpoints == ("10.0.0.1:2379", "10.0.0.2:2379")
    assert (settings.leeway, settings.etcd.ca_file, settings.node_lease) == (2.5, Path("/ca.pem"), 10)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ETCD_ENDPOINTS": ""}, "ETCD_ENDPOINTS"),
        ({"ETCD_ENDPOINTS": " , "}, "ETCD_ENDPOINTS"),
        ({"CREDMESH_ISSUER": ""}, "CREDMESH_ISSUER"),
        ({"CREDMESH_SERVICE": ""}, "CREDMESH_SERVICE"),
        ({"CREDMESH_LEEWAY": "long"}, "CREDMESH_LEEWAY"),
        ({"CREDMESH_LEEWAY": "-1"}, "CREDMESH_LEEWAY"),
        ({"CREDMESH_LEEWAY": "nan"}, "CREDMESH_LEEWAY"),
        ({"CREDMESH_ETCD_PREFIX": "credmesh"}, "CREDMESH_ETCD_PREFIX"),
        ({"CREDMESH_ETCD_TIMEOUT": "0"}, "CREDMESH_ETCD_TIMEOUT"),
        ({"CREDMESH_ETCD_TIMEOUT": "nan"}, "CREDMESH_ETCD_TIMEOUT"),
        ({"CREDMESH_ETCD_TIMEOUT": "inf"}, "CREDMESH_ETCD_TIMEOUT"),
        ({"ETCD_CERT_FILE": "/c.pem"}, "ETCD_KEY_FILE"),
        ({"ETCD_CERT_FILE": "/c.pem", "ETCD_KEY_FILE": "/c.key"}, "ETCD_CA_FILE"),
        ({"CREDMESH_MAX_CREDENTIAL_BYTES": "10"}, "CREDMESH_MAX_CREDENTIAL_BYTES"),
        ({"CREDMESH_NODE_LEASE": "1"}, "CREDMESH_NODE_LEASE"),
        ({"CREDMESH_CACHED_CREDENTIALS": "-1"}, "CREDMESH_CACHED_CREDENTIALS"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_with_an_example(change: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(MeshSettings, {**GOOD, **change})
    assert named in str(caught.value)
    assert "for example" in str(caught.value)


@pytest.mark.parametrize("drain", ["-1", "nan", "inf"])
def test_an_invalid_drain_is_named_with_an_example(drain: str) -> None:
    environ = {"CREDMESH_LISTEN": "0.0.0.0:1", "CREDMESH_PLAINTEXT": "true", "CREDMESH_DRAIN": drain}
    with pytest.raises(SettingsError, match=r"CREDMESH_DRAIN must be .*; for example"):
        read_settings(ServerSettings, environ)


def test_a_server_without_tls_needs_an_explicit_setting() -> None:
    with pytest.raises(SettingsError, match="CREDMESH_PLAINTEXT=true"):
        read_settings(ServerSettings, {"CREDMESH_LISTEN": "0.0.0.0:1"})
    assert read_settings(ServerSettings, {"CREDMESH_LISTEN": "0.0.0.0:1", "CREDMESH_PLAINTEXT": "yes"}).plaintext
    with pytest.raises(SettingsError, match="CREDMESH_TLS_KEY_FILE"):
        read_settings(ServerSettings, {"CREDMESH_LISTEN": "0.0.0.0:1", "CREDMESH_TLS_CERT_FILE": "/c"})
