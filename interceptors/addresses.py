"""The addresses in settings. gRPC takes a port above 65535 modulo 65536 and a missing one for 443, without a word."""

from __future__ import annotations

from typing import Final

__all__ = ["UNIX_SCHEMES", "check_listen_address", "split_address"]

UNIX_SCHEMES: Final = ("unix:", "unix-abstract:")
"""How the gRPC address of a Unix socket begins (grpc/doc/naming.md)."""

_MAX_PORT: Final = 65_535


def split_address(address: str, variable: str, *, example: str = "0.0.0.0:8443") -> tuple[str, int]:
    """Returns host and port of `host:port` or `[v6]:port`. Port 0 is any free port. ValueError names the variable."""
    host, separator, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not separator or not (port.isascii() and port.isdigit()) or (":" in bare and bare is host):
        raise ValueError(f"{variable}={address!r} is not host:port; for example: {variable}={example}")
    if int(port) > _MAX_PORT:
        raise ValueError(f"{variable}={address!r}: a port is from 0 to {_MAX_PORT}; for example: {variable}={example}")
    return bare or "0.0.0.0", int(port)  # noqa: S104 - the meaning of an empty host


def check_listen_address(address: str, variable: str) -> None:
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
