"""Channels that are encrypted unless told otherwise, and that attach credentials."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from interceptors.client.aio.credentials import AioCredentials
from interceptors.client.sync.credentials import Credentials

__all__ = ["aio_channel", "channel"]

File = str | PathLike[str]
Options = Sequence[tuple[str, Any]]

_SCHEMES: Final = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "xds:", "vsock:")
_LOCAL: Final = ("unix:", "unix-abstract:")
_ROUND_ROBIN: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def channel(
    target: str,
    *,
    ca_file: File | None = None,
    cert_file: File | None = None,
    key_file: File | None = None,
    server_name: str | None = None,
    credentials: Credentials | None = None,
    allow_plaintext: bool = False,
    options: Options = (),
) -> grpc.Channel:
    """A channel to a service, over TLS.

    target           "host:port", several IP addresses as "10.0.0.1:8443,10.0.0.2:8443", or a gRPC target such as
                     "dns:///auth.example.com:8443" or "unix:/run/orders.sock". All addresses are used, in turn; those
                     that do not answer are left out until they do
    ca_file          PEM certificates to trust; without it gRPC's own roots
    cert_file        PEM certificate to present (mutual TLS), with its private key in key_file
    server_name      the name that the servers' certificates must hold, where it is not the target's host
    credentials      attached to every call
    allow_plaintext  speaks without TLS where no ca_file is given: everybody on the way can read the credentials. Not
                     needed for Unix sockets, which never leave the machine
    options          gRPC channel arguments; they win over what is set here

    Nothing is connected before the first call. ValueError if the arguments contradict each other, OSError if a file
    cannot be read.
    """
    if credentials is not None and not isinstance(credentials, Credentials):
        raise TypeError("channel() takes Credentials; AioCredentials go with aio_channel()")
    plan = _plan(target, ca_file, cert_file, key_file, server_name, allow_plaintext, options)
    if plan.security is None:
        made = grpc.insecure_channel(plan.target, plan.options)
    else:
        made = grpc.secure_channel(plan.target, plan.security, plan.options)
    return made if credentials is None else grpc.intercept_channel(made, *credentials.interceptors())


def aio_channel(
    target: str,
    *,
    ca_file: File | None = None,
    cert_file: File | None = None,
    key_file: File | None = None,
    server_name: str | None = None,
    credentials: AioCredentials | None = None,
    allow_plaintext: bool = False,
    options: Options = (),
) -> grpc.aio.Channel:
    """The same for grpc.aio; see `channel`. Make it in the event loop that it is used in."""
    if credentials is not None and not isinstance(credentials, AioCredentials):
        raise TypeError("aio_channel() takes AioCredentials; Credentials go with channel()")
    plan = _plan(target, ca_file, cert_file, key_file, server_name, allow_plaintext, options)
    interceptors = None if credentials is None else credentials.interceptors()
    if plan.security is None:
        return grpc.aio.insecure_channel(plan.target, plan.options, interceptors=interceptors)
    return grpc.aio.secure_channel(plan.target, plan.security, plan.options, interceptors=interceptors)


@dataclass(frozen=True, slots=True)
class _Plan:
    target: str
    security: grpc.ChannelCredentials | None  # None: plaintext
    options: list[tuple[str, Any]]


def _plan(
    target: str,
    ca_file: File | None,
    cert_file: File | None,
    key_file: File | None,
    server_name: str | None,
    allow_plaintext: bool,
    options: Options,
) -> _Plan:
    if not target.strip():
        raise ValueError("the target is empty; for example: auth.example.com:8443")
    if (cert_file is None) != (key_file is None):
        raise ValueError("cert_file and key_file go together; give both or neither")
    if cert_file is not None and ca_file is None and allow_plaintext:
        raise ValueError("cert_file is for TLS, and allow_plaintext without a ca_file is not; give one of the two")
    local = target.startswith(_LOCAL)
    tls = ca_file is not None or cert_file is not None or not (allow_plaintext or local)
    address, name = _address(target, server_name, tls=tls)
    ours: dict[str, Any] = {"grpc.service_config": _ROUND_ROBIN}
    if name is not None:
        ours["grpc.default_authority"] = name
    theirs = {key for key, _ in options}  # of two values for one key gRPC would take the first
    merged = [(key, value) for key, value in ours.items() if key not in theirs] + list(options)
    return _Plan(address, _security(ca_file, cert_file, key_file) if tls else None, merged)


def _security(ca_file: File | None, cert_file: File | None, key_file: File | None) -> grpc.ChannelCredentials:
    roots, key, chain = (None if file is None else Path(file).read_bytes() for file in (ca_file, key_file, cert_file))
    if roots is not None and b"-----BEGIN CERTIFICATE-----" not in roots:
        # gRPC would only say that no connection can be made.
        raise ValueError(f"{ca_file} holds no PEM certificate")
    return grpc.ssl_channel_credentials(roots, key, chain)


def _address(target: str, server_name: str | None, *, tls: bool) -> tuple[str, str | None]:
    """The gRPC target and the servers' name (None: gRPC's default, which is the target's host)."""
    entries = [entry.strip() for entry in target.split(",") if entry.strip()]
    if target.startswith(_SCHEMES):
        return target, server_name
    if len(entries) == 1:
        return entries[0], server_name
    hosts = [_host(entry) for entry in entries]
    kinds = {_kind(host, target) for host in hosts}
    if len(kinds) != 1:
        raise ValueError(
            f"{target!r} mixes IPv4 and IPv6 addresses; give one kind, or one DNS name that resolves to all"
        )
    if tls and server_name is None:
        # For several addresses gRPC has no name of its own to check the certificates by.
        if len(set(hosts)) != 1:
            raise ValueError(
                f"{target!r} has several hosts, and TLS checks one name; give it as server_name, or give one DNS name "
                "that resolves to all of them"
            )
        server_name = hosts[0].strip("[]")
    addresses = ",".join(entry.replace("localhost", "127.0.0.1", 1) for entry in entries)
    return f"{kinds.pop()}:{addresses}", server_name


def _host(entry: str) -> str:
    host, separator, port = entry.rpartition(":")
    if not separator or not port.isdecimal():
        raise ValueError(f"{entry!r} is not host:port; for example: 10.0.0.1:8443")
    return host


def _kind(host: str, target: str) -> str:
    if host == "localhost":
        return "ipv4"
    try:
        return f"ipv{ipaddress.ip_address(host.strip('[]')).version}"
    except ValueError:
        # gRPC resolves one name, and follows it when it changes; it has no list of names.
        raise ValueError(
            f"{host!r} in {target!r} is not an IP address; give one DNS name that resolves to all servers, or addresses"
        ) from None
