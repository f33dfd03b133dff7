"""Settings: one frozen object per component, read once from the environment when a process starts."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from interceptors.errors import SettingsError

__all__ = [
    "MAX_FRESHNESS_SECONDS",
    "UNIX_SCHEMES",
    "EtcdSettings",
    "MeshSettings",
    "ServerSettings",
    "read_settings",
    "setting",
    "split_address",
]

T = TypeVar("T")

MAX_FRESHNESS_SECONDS: Final = 3600.0
"""The highest value of CREDMESH_LONGEST_FRESHNESS."""

UNIX_SCHEMES: Final = ("unix:", "unix-abstract:")
"""How the gRPC address of a Unix socket begins (grpc/doc/naming.md)."""

_MAX_PORT: Final = 65_535
_MAX_TIMEOUT_SECONDS: Final = 300.0
_MAX_DRAIN_SECONDS: Final = 86_400.0
_MAX_MESSAGE_BYTES: Final = 2**31 - 1
_MAX_CONCURRENT_CALLS: Final = 1_000_000


def setting(variable: str, example: str, *, default: Any = MISSING, help: str = "") -> Any:
    """Returns a dataclass field that is read from an environment variable. Errors show `example`."""
    metadata = {"variable": variable, "example": example, "help": help}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def read_settings(kind: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Reads a settings dataclass from environment variables.

    Types: str, int, float, bool, Path, tuple[str, ...] (comma-separated) and `X | None`. An empty variable counts as
    absent. SettingsError names the variable, what is wrong with it, and an example.
    """
    environ = os.environ if environ is None else environ
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for one in fields(typing.cast(Any, kind)):
        variable = one.metadata.get("variable")
        if variable is None:
            values[one.name] = read_settings(hints[one.name], environ)
            continue
        text = environ.get(variable, "").strip()
        if text:
            values[one.name] = _convert(variable, text, hints[one.name], one.metadata["example"])
        elif one.default is MISSING and one.default_factory is MISSING:
            raise SettingsError(f"{variable} is not set; for example: {variable}={one.metadata['example']}")
    try:
        return kind(**values)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _convert(variable: str, text: str, kind: Any, example: str) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return kind(text)
    except (KeyError, ValueError):
        wanted = getattr(kind, "__name__", "list")
        raise SettingsError(f"{variable}={text!r} is not a valid {wanted}; for example: {variable}={example}") from None


def split_address(address: str, variable: str, *, example: str = "0.0.0.0:8443") -> tuple[str, int]:
    """Returns host and port of `host:port` or `[v6]:port`. Port 0 is any free port. ValueError names the variable.

    gRPC would take a port above 65535 modulo 65536, and a missing one for 443, without a word.
    """
    host, separator, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not separator or not (port.isascii() and port.isdigit()) or (":" in bare and bare is host):
        raise ValueError(f"{variable}={address!r} is not host:port; for example: {variable}={example}")
    if int(port) > _MAX_PORT:
        raise ValueError(f"{variable}={address!r}: a port is from 0 to {_MAX_PORT}; for example: {variable}={example}")
    return bare or "0.0.0.0", int(port)  # noqa: S104 - the meaning of an empty host


def _check_listen_address(address: str, variable: str) -> None:
    """Checks the address of a gRPC server: host:port, or a Unix socket (`unix:/run/a.sock`, `unix-abstract:name`).

    ValueError names the variable.
    """
    for scheme in UNIX_SCHEMES:
        if address.startswith(scheme):
            if len(address) == len(scheme):
                raise ValueError(
                    f"{variable}={address!r} names no socket; for example: {variable}=unix:/run/orders.sock"
                )
            return
    split_address(address, variable)


@dataclass(frozen=True, kw_only=True)
class EtcdSettings:
    """How to reach etcd."""

    endpoints: tuple[str, ...] = setting(
        "ETCD_ENDPOINTS", "10.0.0.1:2379,10.0.0.2:2379", help="host:port of each member, or one DNS name"
    )
    ca_file: Path | None = setting("ETCD_CA_FILE", "/etc/credmesh/etcd-ca.pem", default=None, help="turns TLS on")
    cert_file: Path | None = setting(
        "ETCD_CERT_FILE", "/etc/credmesh/etcd.pem", default=None, help="client certificate"
    )
    key_file: Path | None = setting("ETCD_KEY_FILE", "/etc/credmesh/etcd.key", default=None, help="its private key")
    prefix: str = setting("CREDMESH_ETCD_PREFIX", "/credmesh/", default="/credmesh/", help="prefix of every key")
    timeout: float = setting("CREDMESH_ETCD_TIMEOUT", "5", default=5.0, help="seconds for one request")

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("ETCD_ENDPOINTS is empty; for example: ETCD_ENDPOINTS=10.0.0.1:2379")
        if not (self.prefix.startswith("/") and self.prefix.endswith("/")):
            raise ValueError("CREDMESH_ETCD_PREFIX must begin and end with '/'; for example: /credmesh/")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError(
                "ETCD_CERT_FILE and ETCD_KEY_FILE go together; for example: ETCD_CERT_FILE=/etc/credmesh/etcd.pem "
                "ETCD_KEY_FILE=/etc/credmesh/etcd.key"
            )
        if self.cert_file is not None and self.ca_file is None:
            raise ValueError("ETCD_CERT_FILE needs ETCD_CA_FILE; for example: ETCD_CA_FILE=/etc/credmesh/etcd-ca.pem")
        # The condition is also false for NaN, which `float` accepts.
        if not 0 < self.timeout <= _MAX_TIMEOUT_SECONDS:
            raise ValueError(
                f"CREDMESH_ETCD_TIMEOUT must be above 0 and at most {_MAX_TIMEOUT_SECONDS:g} seconds; for example: 5"
            )


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """How a node verifies credentials."""

    etcd: EtcdSettings
    service: str = setting("CREDMESH_SERVICE", "orders", help="the service's name in the list of nodes")
    issuer: str = setting("CREDMESH_ISSUER", "https://auth.example.com", help="`iss` of every token (RFC 9068)")
    leeway: float = setting("CREDMESH_LEEWAY", "5", default=5.0, help="seconds of clock skew that are tolerated")
    max_credential_bytes: int = setting(
        "CREDMESH_MAX_CREDENTIAL_BYTES", "4096", default=4096, help="a larger authorization entry is refused"
    )
    cached_credentials: int = setting(
        "CREDMESH_CACHED_CREDENTIALS",
        "10000",
        default=10_000,
        help="verified credentials that are cached",
    )
    node_lease: int = setting(
        "CREDMESH_NODE_LEASE", "10", default=10, help="seconds after which a silent node is no longer registered"
    )
    longest_freshness: float = setting(
        "CREDMESH_LONGEST_FRESHNESS",
        "10",
        default=10.0,
        help="seconds: the limit of every method's `freshness`, which receipts depend on; set it alike on all nodes",
    )
    address: str = setting(
        "CREDMESH_ADDRESS", "10.1.2.3:8443", default="", help="the node's address in the list of nodes"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.leeway <= 300:
            raise ValueError("CREDMESH_LEEWAY must be from 0 to 300 seconds; for example: 5")
        if self.max_credential_bytes < 256:
            raise ValueError("CREDMESH_MAX_CREDENTIAL_BYTES must be at least 256; for example: 4096")
        if self.cached_credentials < 0:
            raise ValueError("CREDMESH_CACHED_CREDENTIALS must be 0 or more; for example: 10000")
        if self.node_lease < 2:
            raise ValueError("CREDMESH_NODE_LEASE must be at least 2 seconds; for example: 10")
        if not 1 <= self.longest_freshness <= MAX_FRESHNESS_SECONDS:
            raise ValueError(
                f"CREDMESH_LONGEST_FRESHNESS must be from 1 to {MAX_FRESHNESS_SECONDS:g} seconds; for example: 10"
            )


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a gRPC server listens."""

    listen: str = setting("CREDMESH_LISTEN", "0.0.0.0:8443", help="host:port of the gRPC server, or unix:/path")
    tls_cert_file: Path | None = setting(
        "CREDMESH_TLS_CERT_FILE",
        "/etc/credmesh/tls.crt",
        default=None,
        help="certificate chain, PEM; read again when replaced",
    )
    tls_key_file: Path | None = setting(
        "CREDMESH_TLS_KEY_FILE", "/etc/credmesh/tls.key", default=None, help="its private key, PEM"
    )
    plaintext: bool = setting(
        "CREDMESH_PLAINTEXT", "true", default=False, help="serve without TLS, so that credentials travel unencrypted"
    )
    metrics: str = setting("CREDMESH_METRICS", "0.0.0.0:9090", default="", help="host:port of /metrics; none if empty")
    drain: float = setting("CREDMESH_DRAIN", "20", default=20.0, help="seconds that open calls get after SIGTERM")
    drain_delay: float = setting(
        "CREDMESH_DRAIN_DELAY",
        "5",
        default=0.0,
        help="seconds after SIGTERM in which it still accepts calls while its health is NOT_SERVING",
    )
    message_timeout: float = setting(
        "CREDMESH_MESSAGE_TIMEOUT", "20", default=20.0, help="seconds for the first request message of a call"
    )
    max_message_bytes: int = setting(
        "CREDMESH_MAX_MESSAGE_BYTES", "1048576", default=1_048_576, help="a larger request message is refused"
    )
    max_concurrent_calls: int = setting(
        "CREDMESH_MAX_CONCURRENT_CALLS", "1000", default=1000, help="calls that one connection may have open"
    )

    def __post_init__(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(
                "CREDMESH_TLS_CERT_FILE and CREDMESH_TLS_KEY_FILE go together; for example: "
                "CREDMESH_TLS_CERT_FILE=/etc/credmesh/tls.crt CREDMESH_TLS_KEY_FILE=/etc/credmesh/tls.key"
            )
        if self.tls_cert_file is None and not self.plaintext:
            raise ValueError(
                "CREDMESH_TLS_CERT_FILE is not set, and credentials must not travel unencrypted; for example: "
                "CREDMESH_TLS_CERT_FILE=/etc/credmesh/tls.crt (or CREDMESH_PLAINTEXT=true to serve without TLS)"
            )
        _check_listen_address(self.listen, "CREDMESH_LISTEN")
        if self.metrics:
            split_address(self.metrics, "CREDMESH_METRICS", example="0.0.0.0:9090")
        if not 0 <= self.drain <= _MAX_DRAIN_SECONDS:
            raise ValueError(f"CREDMESH_DRAIN must be from 0 to {_MAX_DRAIN_SECONDS:g} seconds; for example: 20")
        if not 0 <= self.drain_delay <= _MAX_DRAIN_SECONDS:
            raise ValueError(f"CREDMESH_DRAIN_DELAY must be from 0 to {_MAX_DRAIN_SECONDS:g} seconds; for example: 5")
        if not 0 < self.message_timeout <= _MAX_TIMEOUT_SECONDS:
            raise ValueError(
                f"CREDMESH_MESSAGE_TIMEOUT must be above 0 and at most {_MAX_TIMEOUT_SECONDS:g} seconds; "
                "for example: 20"
            )
        if not 0 < self.max_message_bytes <= _MAX_MESSAGE_BYTES:
            raise ValueError(
                f"CREDMESH_MAX_MESSAGE_BYTES must be above 0 and at most {_MAX_MESSAGE_BYTES}; for example: 1048576"
            )
        if not 0 < self.max_concurrent_calls <= _MAX_CONCURRENT_CALLS:
            raise ValueError(
                f"CREDMESH_MAX_CONCURRENT_CALLS must be above 0 and at most {_MAX_CONCURRENT_CALLS}; for example: 1000"
            )
