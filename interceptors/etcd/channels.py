"""Connections to etcd's members: addresses, TLS, and gRPC's options.

Every endpoint has a separate channel. One gRPC target for all of them (`ipv4:a:1,b:2`) would not allow DNS names or
mixed addresses, and under TLS would require a certificate whose name is the whole list.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from interceptors.errors import SettingsError
from interceptors.etcd.compat import import_etcdrpc
from interceptors.pem import read_certificates, read_pair
from interceptors.settings import EtcdSettings

__all__ = ["METADATA", "Endpoint", "certificates_stamp", "open_endpoints"]

_etcdrpc: Final = import_etcdrpc()

METADATA: Final = (("hasleader", "true"),)
"""With this, a member that is cut off from its cluster fails at once, instead of hanging or giving old answers."""

_OPTIONS: Final = (
    # A dead connection is detected within 12 s. etcd allows one ping every 5 s, and none while no call is open.
    ("grpc.keepalive_time_ms", 8_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    # Newer gRPC cores ignore the option above and wait this long for the answer (60 s by default).
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's defaults (20 s to connect, up to 120 s between attempts) suit the internet. A node that waits for etcd must
    # be ready as soon as etcd is, and a refused attempt costs little.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # A DNS name may stand for several members; requests must not stick to one that has no leader.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # A page of keys or a batch of events can exceed gRPC's limit of 4 MiB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member of etcd, or a DNS name that stands for several, with its stubs."""

    name: str
    channel: grpc.Channel
    kv: Any
    lease: Any
    watch: Any


def open_endpoints(settings: EtcdSettings) -> tuple[Endpoint, ...]:
    """Opens a channel to each endpoint; gRPC connects when the first request is made.

    Raises SettingsError for an endpoint that is not host:port, and for TLS files that cannot be used.
    """
    targets = {_name(text, settings): _target(_name(text, settings)) for text in settings.endpoints}
    credentials = _credentials(settings)
    return tuple(_open(name, target, credentials) for name, target in targets.items())


def certificates_stamp(settings: EtcdSettings) -> tuple[tuple[int, int, int] | None, ...]:
    """Returns a value that changes when one of the TLS files is replaced."""
    return tuple(_stamp(path) for path in (settings.ca_file, settings.cert_file, settings.key_file) if path is not None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _open(name: str, target: str, credentials: grpc.ChannelCredentials | None) -> Endpoint:
    if credentials is None:
        channel = grpc.insecure_channel(target, options=_OPTIONS)
    else:
        channel = grpc.secure_channel(target, credentials, options=_OPTIONS)
    return Endpoint(
        name=name,
        channel=channel,
        kv=_etcdrpc.KVStub(channel),
        lease=_etcdrpc.LeaseStub(channel),
        watch=_etcdrpc.WatchStub(channel),
    )


def _name(text: str, settings: EtcdSettings) -> str:
    """Returns the endpoint as host:port. URLs are accepted too, since etcd's own tools use them."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    if scheme != ("https" if settings.ca_file else "http"):
        raise SettingsError(
            f"ETCD_ENDPOINTS={text}: https:// goes with ETCD_CA_FILE, http:// goes without; "
            f"for example: ETCD_ENDPOINTS=https://10.0.0.1:2379 and ETCD_CA_FILE=/etc/credmesh/etcd-ca.pem"
        )
    return rest.rstrip("/")


def _target(name: str) -> str:
    """Returns the gRPC target of host:port."""
    host, _, port = name.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SettingsError(f"ETCD_ENDPOINTS: {name!r} is not host:port; for example: ETCD_ENDPOINTS=10.0.0.1:2379")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return f"dns:///{name}"
    return f"ipv4:{address}:{port}" if address.version == 4 else f"ipv6:[{address}]:{port}"


def _credentials(settings: EtcdSettings) -> grpc.ChannelCredentials | None:
    if settings.ca_file is None:
        return None
    roots = read_certificates("ETCD_CA_FILE", settings.ca_file, example="/etc/credmesh/etcd-ca.pem")
    if settings.cert_file is None or settings.key_file is None:
        return grpc.ssl_channel_credentials(roots)
    chain, key = read_pair(
        "ETCD_CERT_FILE",
        settings.cert_file,
        "ETCD_KEY_FILE",
        settings.key_file,
        examples=("/etc/credmesh/etcd.pem", "/etc/credmesh/etcd.key"),
    )
    return grpc.ssl_channel_credentials(roots, private_key=key, certificate_chain=chain)
