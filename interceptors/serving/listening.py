"""Listening on a port: TLS with certificates that may be renewed, and errors that say why a server cannot listen."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast

import grpc

from interceptors.errors import CredmeshError, SettingsError
from interceptors.pem import read_pair
from interceptors.settings import UNIX_SCHEMES, ServerSettings, split_address

__all__ = ["SECOND_SIGNAL_SECONDS", "SERVER_OPTIONS", "ListenError", "listen", "server_options"]

_log: Final = logging.getLogger("credmesh.serving")

SECOND_SIGNAL_SECONDS: Final = 1.0
"""From when on a second signal ends a drain. An earlier one is the first, sent twice."""

SERVER_OPTIONS: Final = (
    # With port sharing a second process would take half of the calls, without an error.
    ("grpc.so_reuseport", 0),
    # Clients of a mesh ping idle connections to notice a peer that is gone. Do not close their connections for that.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
"""The options of a server that do not depend on its settings."""


def server_options(settings: ServerSettings) -> tuple[tuple[str, int], ...]:
    """Returns the options of a server."""
    return (
        *SERVER_OPTIONS,
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_concurrent_calls),
    )


_ALL_INTERFACES: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
_BIND_ERRORS: Final = frozenset({errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL})


class ListenError(CredmeshError):
    """The server cannot listen: the port is in use or not permitted, or the address is not one of this machine."""


class _Listener(Protocol):
    """What grpc.Server and grpc.aio.Server have in common for listening."""

    def add_insecure_port(self, address: str) -> int: ...

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int: ...


def listen(server: _Listener, settings: ServerSettings) -> int:
    """Listens on the address of the settings, and returns the port. Raises ListenError or SettingsError."""
    credentials = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        credentials = _server_credentials(_Certificate(settings.tls_cert_file, settings.tls_key_file))
    # Checked before gRPC tries, because gRPC would log a line that says less. A process that takes the port after this
    # check is found below.
    if problem := _find_bind_problem(settings.listen):
        raise ListenError(f"cannot listen on {settings.listen}: {problem}")
    try:
        if credentials is None:
            port = server.add_insecure_port(settings.listen)
        else:
            port = server.add_secure_port(settings.listen, credentials)
    except RuntimeError:
        port = 0  # grpc gives no cause
    if port == 0:
        raise ListenError(f"cannot listen on {settings.listen}: {_explain_failed_bind(settings.listen)}")
    return port


def _find_bind_problem(address: str) -> str:
    """Why no server can listen on an address; "" if gRPC may be able to.

    Binds to the address, without listening, so that no client connects meanwhile.
    """
    if address.startswith(UNIX_SCHEMES):
        return _find_socket_problem(address)
    host, port = split_address(address, "CREDMESH_LISTEN")
    problem = ""
    # gRPC needs only one of a name's addresses, and falls back from one family's wildcard address to the other's.
    for candidate in _ALL_INTERFACES if host in _ALL_INTERFACES else (host,):
        try:
            addresses = socket.getaddrinfo(candidate, port, type=socket.SOCK_STREAM)
        except OSError:
            return ""  # gRPC resolves names by itself
        for family, kind, protocol, _, target in addresses:
            try:
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    probe.bind(target)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:
                    continue  # a machine without IPv6
                if error.errno not in _BIND_ERRORS:
                    return ""
                problem = problem or _advice(error)
            else:
                return ""
    return problem


def _find_socket_problem(address: str) -> str:
    """Why no server can listen on a Unix socket; "" if gRPC may be able to."""
    scheme, _, name = address.partition(":")
    if scheme == "unix-abstract":
        target = f"\0{name}"
    else:
        target = name.removeprefix("//")
        folder = Path(target).parent
        if not os.access(folder, os.W_OK | os.X_OK):
            exists = "is not writable" if folder.is_dir() else "is not a folder"
            return f"{folder} {exists}; set CREDMESH_LISTEN to a socket in a folder of this user"
        if Path(target).exists() and not Path(target).is_socket():
            return f"{target} is a file, and not a socket; set CREDMESH_LISTEN to another path"
    # gRPC would take a socket over from the process that serves it, and remove it when it ends.
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(target)
        except OSError as error:
            # The file of a process that was killed is left behind, and gRPC replaces it.
            return _advice(error) if error.errno in (errno.EACCES, None) else ""  # None: the path is too long
    return "another process serves it; stop that process, or set CREDMESH_LISTEN to another address"


def _explain_failed_bind(address: str) -> str:
    if address.startswith(UNIX_SCHEMES):
        return _find_socket_problem(address) or "gRPC gave no cause; set CREDMESH_LISTEN to another address"
    host, port = split_address(address, "CREDMESH_LISTEN")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as error:
        return _advice(error)
    return "gRPC gave no cause; try again, or set CREDMESH_LISTEN to another host:port"


def _advice(error: OSError) -> str:
    return f"{error.strerror or error}; stop what uses it, or set CREDMESH_LISTEN to another host:port"


class _Certificate:
    """A certificate and its key on disk, read again when they change: cert-manager and others renew them in place."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._lock = threading.Lock()
        # Before the files are read, so that files that change meanwhile are read again.
        self._modified_at = self._read_modified_at()
        self.configuration = self._read()

    def read_renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the new certificate, or None if the files have not changed. Called for every handshake."""
        with self._lock:
            modified_at = self._read_modified_at()
            if modified_at == self._modified_at:
                return None
            try:
                configuration = self._read()
            except SettingsError as error:
                # A renewal is half done, or the files were deleted.
                _log.warning("the TLS certificate changed, and the previous one stays in use: %s", error)
                return None
            self._modified_at = modified_at
            self.configuration = configuration
            _log.info("the TLS certificate was renewed")
            return configuration

    def _read_modified_at(self) -> tuple[int, int] | None:
        try:
            return self._cert_file.stat().st_mtime_ns, self._key_file.stat().st_mtime_ns
        except OSError:
            return None  # `_read` says what is wrong

    def _read(self) -> grpc.ServerCertificateConfiguration:
        chain, key = read_pair(
            "CREDMESH_TLS_CERT_FILE",
            self._cert_file,
            "CREDMESH_TLS_KEY_FILE",
            self._key_file,
            examples=("/etc/credmesh/tls.crt", "/etc/credmesh/tls.key"),
        )
        return grpc.ssl_server_certificate_configuration([(key, chain)])


def _server_credentials(certificate: _Certificate) -> grpc.ServerCredentials:
    # The stubs do not allow None, by which gRPC's documentation means that the certificate is unchanged.
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", certificate.read_renewed)
    return grpc.dynamic_ssl_server_credentials(certificate.configuration, fetch, require_client_authentication=False)
