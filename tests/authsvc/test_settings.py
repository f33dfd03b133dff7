"""The auth service's settings. An error names the variable and gives an example value."""

from __future__ import annotations

import base64

import pytest

from authsvc.settings import AuthSettings, read_auth_settings
from interceptors.errors import SettingsError

KEK = base64.b64encode(bytes(range(32))).decode()

NEEDED = {
    "ETCD_ENDPOINTS": "127.0.0.1:2379",
    "CREDMESH_ISSUER": "https://auth.test",
    "CREDMESH_LISTEN": "127.0.0.1:0",
    "CREDMESH_PLAINTEXT": "true",
    "CREDMESH_KEK": KEK,
}


def _read(**changes: str) -> AuthSettings:
    return read_auth_settings({**NEEDED, **changes})


def test_an_absent_variable_has_the_documented_default() -> None:
    settings = _read()
    assert settings.mesh.service == "auth"
    assert settings.token_lifetime == 300
    assert settings.key_algorithm == "ES256"
    assert settings.password_workers == 2
    assert settings.http_listen == ""


def test_the_environment_overrides_the_defaults() -> None:
    settings = _read(CREDMESH_SERVICE="auth-eu", CREDMESH_TOKEN_LIFETIME="60.5", CREDMESH_LEADER_LEASE="7")
    assert settings.mesh.service == "auth-eu"
    assert settings.token_lifetime == 60.5
    assert settings.leader_lease == 7


@pytest.mark.parametrize("absent", ["ETCD_ENDPOINTS", "CREDMESH_ISSUER", "CREDMESH_LISTEN", "CREDMESH_KEK"])
def test_an_absent_variable_is_named_with_an_example(absent: str) -> None:
    environ = {name: value for name, value in NEEDED.items() if name != absent}
    with pytest.raises(SettingsError, match=rf"{absent}.* is not set.*for example: {absent}") as error:
        read_auth_settings(environ)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "wrong"),
    [
        ("CREDMESH_TOKEN_LIFETIME", "0"),
        ("CREDMESH_TOKEN_LIFETIME", "nan"),
        ("CREDMESH_TOKEN_LIFETIME", "inf"),
        ("CREDMESH_TOKEN_LIFETIME", "five minutes"),
        ("CREDMESH_REFRESH_GRACE", "-1"),
        ("CREDMESH_SESSION_IDLE", "0"),
        ("CREDMESH_SESSION_LIFETIME", "-86400"),
        ("CREDMESH_ROTATION_INTERVAL", "0"),
        ("CREDMESH_RESOLVE_TTL", "0"),
        ("CREDMESH_KEY_ALGORITHM", "HS256"),
        ("CREDMESH_KEY_ALGORITHM", "none"),
        ("CREDMESH_MAX_TOKEN_BYTES", "100"),
        ("CREDMESH_MAX_TOKEN_BYTES", "5000"),
        ("CREDMESH_LEADER_LEASE", "1"),
        ("CREDMESH_LEADER_LEASE", "2.5"),
        ("CREDMESH_PASSWORD_WORKERS", "0"),
        ("CREDMESH_LOGIN_FAILURES_PER_ACCOUNT", "-1"),
        ("CREDMESH_LOGIN_FAILURES_PER_ADDRESS", "-1"),
        ("CREDMESH_TOKEN_LOOKUPS_PER_ADDRESS", "-1"),
        ("CREDMESH_TRUSTED_PROXIES", "proxy.example"),
        ("CREDMESH_TRUSTED_PROXIES", "10.0.0.7,10.1.2.3/16"),
        ("CREDMESH_TRUSTED_PROXIES", "0.0.0.0/0"),
        ("CREDMESH_LISTEN", "8443"),
        ("CREDMESH_HTTP_LISTEN", "8080"),
        ("CREDMESH_HTTP_LISTEN", "localhost:http"),
        ("CREDMESH_HTTP_LISTEN", "localhost:70000"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variable_and_an_example(variable: str, wrong: str) -> None:
    with pytest.raises(SettingsError, match=rf"{variable}.*for example: ") as error:
        _read(**{variable: wrong})
    assert "\n" not in str(error.value)


def test_two_key_encryption_keys_are_refused() -> None:
    with pytest.raises(SettingsError, match="CREDMESH_KEK_FILE and CREDMESH_KEK are both set; keep one"):
        _read(CREDMESH_KEK_FILE="/etc/credmesh/kek")


def test_the_key_encryption_key_is_not_in_the_repr() -> None:
    """The repr of settings appears in logs and tracebacks."""
    settings = _read()
    assert settings.kek == KEK
    assert KEK not in repr(settings)
