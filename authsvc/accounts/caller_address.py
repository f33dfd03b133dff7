"""The address of a caller: that of the connection, or the one that a trusted proxy names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import unquote

import grpc

__all__ = ["CallerAddresses", "address_of", "caller_address", "network_of"]

_FORWARDED_FOR: Final = "x-forwarded-for"
_IPV6_PREFIX_BITS: Final = 64  # one IPv6 caller usually controls a whole /64


class CallerAddresses:
    """Finds the address of each call's caller.

    trusted_proxies: the addresses and networks of the proxies whose `x-forwarded-for` is believed, and "unix" for a
    proxy on a Unix socket. ValueError if one is neither.
    """

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        named = tuple(trusted_proxies)
        self._networks = tuple(ipaddress.ip_network(proxy) for proxy in named if proxy != "unix")
        self._trusts_unix = "unix" in named

    def of(self, context: grpc.ServicerContext) -> str:
        """The address of a call's caller, without the port; the transport, such as "unix", if it has none."""
        address = address_of(context.peer())
        if not self.trusts(address):
            return address
        forwarded = [value for key, value in context.invocation_metadata() or () if key == _FORWARDED_FOR]
        return caller_address(address, [value for value in forwarded if isinstance(value, str)], self)

    def trusts(self, address: str) -> bool:
        """Whether what a process with this address says about its own peer is believed."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return address == "unix" and self._trusts_unix
        return any(parsed in network for network in self._networks)


def caller_address(address: str, forwarded_for: Sequence[str], proxies: CallerAddresses) -> str:
    """The address of the caller behind the proxies that are trusted.

    address        that of the connection's peer
    forwarded_for  the values of `x-forwarded-for`, in the order in which they were sent

    Each proxy appends the address of its peer. So the last entry is true if the peer of the connection is trusted, the
    entry before it if that proxy is trusted too, and so on. A caller can write any entries before those.
    """
    entries = [entry for value in forwarded_for for entry in value.split(",")]
    while entries and proxies.trusts(address):
        named = _parsed(entries.pop().strip())
        if named is None:
            break
        address = named
    return address


def address_of(peer: str) -> str:
    """The address of a gRPC peer, without the port: an IP address, or the transport, such as "unix"."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    return _parsed(unquote(rest)) or peer


def network_of(address: str) -> str:
    """What one caller controls of the addresses: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX_BITS), strict=False))
    return str(parsed)


def _parsed(text: str) -> str | None:
    """The IP address in an address with or without a port, such as "[2001:db8::1]:443"; None if it has none."""
    host = text
    if text.startswith("["):
        host = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        host = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
