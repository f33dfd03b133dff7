"""A caller's address, with and without proxies in front of the auth service."""

from __future__ import annotations

import pytest

from authsvc.accounts.caller_address import CallerAddresses, address_of, caller_address, network_of

PROXIES = CallerAddresses(["10.0.0.7", "10.1.0.0/16", "fd00::/8", "unix"])


@pytest.mark.parametrize(
    ("peer", "address", "network"),
    [
        ("ipv4:127.0.0.1:33", "127.0.0.1", "127.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:33", "2001:db8::1", "2001:db8::/64"),
        ("ipv6:[2001:db8::2]:33", "2001:db8::2", "2001:db8::/64"),
        ("ipv6:%5B::ffff:203.0.113.7%5D:33", "203.0.113.7", "203.0.113.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:33", "fe80::1", "fe80::/64"),
        ("unix:/run/credmesh.sock", "unix", "unix"),
        ("ipv4:nonsense", "ipv4:nonsense", "ipv4:nonsense"),
        ("", "", ""),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str, network: str) -> None:
    assert address_of(peer) == address
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("10.0.0.7", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.7", [], "10.0.0.7"),
        ("unix", ["203.0.113.7:4711"], "203.0.113.7"),
        ("fd00::1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        # Another peer is not believed.
        ("203.0.113.9", ["203.0.113.7"], "203.0.113.9"),
        ("10.0.0.8", ["203.0.113.7"], "10.0.0.8"),
        # What the caller itself has written comes first, and is not believed.
        ("10.0.0.7", ["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.7", ["1.1.1.1", "203.0.113.7"], "203.0.113.7"),
        # Two proxies in a row.
        ("10.0.0.7", ["1.1.1.1, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        # A proxy that does not know the address: its own counts.
        ("10.0.0.7", ["203.0.113.7, unknown"], "10.0.0.7"),
        ("10.0.0.7", ["203.0.113.7,, 10.1.2.3"], "10.1.2.3"),
    ],
)
def test_only_the_entry_of_a_trusted_proxy_is_believed(peer: str, forwarded_for: list[str], address: str) -> None:
    assert caller_address(peer, forwarded_for, PROXIES) == address


def test_without_trusted_proxies_no_entry_is_believed() -> None:
    assert caller_address("127.0.0.1", ["203.0.113.7"], CallerAddresses()) == "127.0.0.1"
    assert caller_address("unix", ["203.0.113.7"], CallerAddresses()) == "unix"
