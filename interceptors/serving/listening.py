"""Where a server listens: TLS that follows renewed certificates, and errors that say what is in the way."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast

import grpc

from interceptors.errors import CredmeshError, SettingsError
from interceptors.pem import read_pair
from interceptors.settings import ServerSettings

__all__ = ["SERVER_OPTIONS", "ListenError", "listen", "split_address"]

_log: Final = logging.getLogger("credmesh.serving")

SERVER_OPTIONS: Final = (
    # Without this a second process shares the port silently and takes half of the calls.
    ("grpc.so_reuseport", 0),
    # Clients of a mesh ping idle connections, so that they notice a peer that is gone; do not punish them for it.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
_FINAL: Final = frozenset({errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL})


class ListenError(CredmeshError):
    """The server cannot listen: the port is taken, not allowed, or the address is not this machine's."""


class _Listener(Protocol):
    """What grpc.Server and grpc.aio.Server have in common here."""

    def add_insecure_port(self, address: str) -> int: ...

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int: ...


def listen(server: _Listener, settings: ServerSettings) -> int:
    """Adds the port that the settings name; returns the port that it became. ListenError, SettingsError."""
    credentials = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        credentials = _credentials(_Certificate(settings.tls_cert_file, settings.tls_key_file))
    # Looked at before, since gRPC would write a line of its own about it, which says less. Whoever takes the port
    # between the two is found below.
    if problem := _in_the_way(settings.listen):
        raise ListenError(f"cannot listen on {settings.listen}: {problem}")
    try:
        if credentials is None:
            port = server.add_insecure_port(settings.listen)
        else:
            port = server.add_secure_port(settings.listen, credentials)
    except RuntimeError:
        port = 0  # grpc says no more than that it failed
    if port == 0:
        raise ListenError(f"cannot listen on {settings.listen}: {_why_not(settings.listen)}")
    return port


def split_address(address: str, variable: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. SettingsError names the variable."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{variable}={address!r} is not host:port; for example: {variable}=0.0.0.0:8443")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what an empty host means


def _in_the_way(address: str) -> str:
    """Why nobody can listen there; "" if gRPC may find a way. Nothing listens meanwhile, so nobody connects to it."""
    try:
        host, port = split_address(address, "CREDMESH_LISTEN")
    except SettingsError:
        return ""  # e.g. unix:/run/a.sock, which gRPC knows
    problem = ""
    # gRPC is content with one of a name's addresses, and takes either family's "any" for the other's.
    for one in _ANY if host in _ANY else (host,):
        try:
            found = socket.getaddrinfo(one, port, type=socket.SOCK_STREAM)
        except OSError:
            return ""  # to resolve names is gRPC's own affair
        for family, kind, protocol, _, target in found:
            try:
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    probe.bind(target)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:
                    continue  # a machine without IPv6
                if error.errno not in _FINAL:
                    return ""
                problem = problem or _advice(error)
            else:
                return ""
    return problem


def _why_not(address: str) -> str:
    host, port = split_address(address, "CREDMESH_LISTEN")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as error:
        return _advice(error)
    return "gRPC refused it without saying why"


def _advice(error: OSError) -> str:
    return f"{error.strerror or error}; stop what uses it, or set CREDMESH_LISTEN to another host:port"


class _Certificate:
    """A certificate and its key on disk, read anew when they change: cert-manager and others renew them in place."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        # Before they are read: what changes meanwhile is read again.
        self._stamp = self._stamp_now()
        self.configuration = self._read()

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificate, or None if it is the one in use. Called for every handshake."""
        with self._lock:
            stamp = self._stamp_now()
            if stamp == self._stamp:
                return None
            try:
                configuration = self._read()
            except SettingsError as error:
                # Half-way through a renewal, or deleted: the one in use goes on being used.
                _log.warning("the TLS certificate changed, and the one before goes on being used: %s", error)
                return None
            self._stamp = stamp
            self.configuration = configuration
            _log.info("the TLS certificate was renewed")
            return configuration

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            return self._cert_file.stat().st_mtime_ns, self._key_file.stat().st_mtime_ns
        except OSError:
            return None  # reading them says what is wrong

    def _read(self) -> grpc.ServerCertificateConfiguration:
        chain, key = read_pair(
            "CREDMESH_TLS_CERT_FILE",
            self._cert_file,
            "CREDMESH_TLS_KEY_FILE",
            self._key_file,
            examples=("/etc/credmesh/tls.crt", "/etc/credmesh/tls.key"),
        )
        return grpc.ssl_server_certificate_configuration([(key, chain)])


def _credentials(certificate: _Certificate) -> grpc.ServerCredentials:
    # The stubs do not know that the fetcher may return None for "the same as before"; gRPC's own documentation does.
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", certificate.renewed)
    return grpc.dynamic_ssl_server_credentials(certificate.configuration, fetch, require_client_authentication=False)
