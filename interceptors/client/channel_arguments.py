"""From the arguments of `channel` and `aio_channel` to those of gRPC's own channels."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import grpc

__all__ = ["ChannelArguments", "File", "Options", "channel_arguments"]

File = str | PathLike[str]
Options = Sequence[tuple[str, Any]]

_SCHEMES: Final = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "xds:", "vsock:")
_LOCAL_SCHEMES: Final = ("unix:", "unix-abstract:")
_UNPROXIED_SCHEMES: Final = (*_LOCAL_SCHEMES, "vsock:")
_ROUND_ROBIN: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


@dataclass(frozen=True, slots=True)
class ChannelArguments:
    """The arguments of a gRPC channel. Without `security` it is plaintext."""

    target: str
    security: grpc.ChannelCredentials | None
    options: list[tuple[str, Any]]


def channel_arguments(
    target: str,
    ca_file: File | None,
    cert_file: File | None,
    key_file: File | None,
    server_name: str | None,
    allow_plaintext: bool,
    options: Options,
) -> ChannelArguments:
    """Checks the arguments and reads the files. ValueError if they contradict each other; OSError for a file."""
    if not target.strip():
        raise ValueError("the target is empty; for example: auth.example.com:8443")
    if (cert_file is None) != (key_file is None):
        raise ValueError("cert_file and key_file go together; give both or neither")
    if cert_file is not None and ca_file is None and allow_plaintext:
        raise ValueError("cert_file needs TLS, and allow_plaintext without a ca_file turns it off; give one of the two")
    local = target.startswith(_LOCAL_SCHEMES)
    tls = ca_file is not None or cert_file is not None or not (allow_plaintext or local)
    address, authority = _address(target, server_name, tls=tls)
    defaults: dict[str, Any] = {"grpc.service_config": _ROUND_ROBIN}
    if _bypasses_proxy(address):
        defaults["grpc.enable_http_proxy"] = 0
    if authority is not None:
        defaults["grpc.default_authority"] = authority
    given = {key for key, _ in options}  # of two values for one key gRPC would take the first
    merged = [(key, value) for key, value in defaults.items() if key not in given] + list(options)
    return ChannelArguments(address, _tls_credentials(ca_file, cert_file, key_file) if tls else None, merged)


def _tls_credentials(ca_file: File | None, cert_file: File | None, key_file: File | None) -> grpc.ChannelCredentials:
    roots, key, chain = (None if file is None else Path(file).read_bytes() for file in (ca_file, key_file, cert_file))
    if roots is not None and b"-----BEGIN CERTIFICATE-----" not in roots:
        # gRPC's own error would only say that no connection can be made.
        raise ValueError(f"{ca_file} holds no PEM certificate")
    return grpc.ssl_channel_credentials(roots, key, chain)


def _address(target: str, server_name: str | None, *, tls: bool) -> tuple[str, str | None]:
    """Returns gRPC's target and the authority; None for gRPC's default, which is the target's host."""
    entries = [entry.strip() for entry in target.split(",") if entry.strip()]
    if target.startswith(_SCHEMES):
        return target, server_name
    hosts = [_host(entry) for entry in entries]
    if len(entries) == 1:
        return entries[0], server_name
    schemes = {_address_scheme(host, target) for host in hosts}
    if len(schemes) != 1:
        raise ValueError(
            f"{target!r} mixes IPv4 and IPv6 addresses; give one kind, or one DNS name that resolves to all"
        )
    if tls and server_name is None:
        # For several addresses gRPC has no default name to check the certificates against.
        if len(set(hosts)) != 1:
            raise ValueError(
                f"{target!r} has several hosts, and TLS checks one name; give it as server_name, or give one DNS name "
                "that resolves to all of them"
            )
        server_name = hosts[0].strip("[]")
    addresses = ",".join(entry.replace("localhost", "127.0.0.1", 1) for entry in entries)
    return f"{schemes.pop()}:{addresses}", server_name


def _bypasses_proxy(address: str) -> bool:
    """Whether connections ignore the proxy that the environment names (`https_proxy` and the like).

    gRPC would ask the proxy for a list of addresses as if it were one host, and finds no list in `no_proxy`. The
    addresses of one machine mean another machine to a proxy.
    """
    if address.startswith(_UNPROXIED_SCHEMES):
        return True
    if "," in address:
        return True
    scheme = next((scheme for scheme in _SCHEMES if address.startswith(scheme)), "")
    # dns://resolver/host:port names the DNS server to ask; dns:///host:port does not.
    entry = address.removeprefix(scheme).rpartition("/")[2]
    host = (entry if entry.count(":") > 1 and not entry.startswith("[") else entry.rpartition(":")[0] or entry).lower()
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 section 6.3
        return True
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return found.is_loopback or found.is_unspecified


def _host(entry: str) -> str:
    # gRPC would take a port above 65535 modulo 65536, and a missing one for 443, without a word.
    host, separator, port = entry.rpartition(":")
    if not separator or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{entry!r} is not host:port; for example: 10.0.0.1:8443")
    return host


def _address_scheme(host: str, target: str) -> str:
    if host == "localhost":
        return "ipv4"
    try:
        return f"ipv{ipaddress.ip_address(host.strip('[]')).version}"
    except ValueError:
        # gRPC resolves one name and follows its changes. It takes no list of names.
        raise ValueError(
            f"{host!r} in {target!r} is not an IP address; give one DNS name that resolves to all servers, or addresses"
        ) from None
