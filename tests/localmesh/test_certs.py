"""The development CA: valid for this machine only, renewed in time, with keys that only the owner can read."""

from __future__ import annotations

import datetime
import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from localmesh.certs import Certificates, development_certificates, etcd_certificates

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
DAYS = datetime.timedelta(days=1)


def certificate(path: Path) -> x509.Certificate:
    """A certificate on disk."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_server_certificate_is_valid_for_this_machine(tmp_path: Path) -> None:
    made = development_certificates(tmp_path, now=NOW)
    store = Store([certificate(made.ca_file)])
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    names: list[x509.DNSName | x509.IPAddress] = [x509.DNSName("localhost"), *addresses]
    for name in names:
        verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(name)
        assert verifier.verify(certificate(made.cert_file), [])


def is_client_certificate(made: Certificates) -> bool:
    """Whether a server that trusts the CA accepts it as a client certificate."""
    verifier = PolicyBuilder().store(Store([certificate(made.ca_file)])).time(NOW).build_client_verifier()
    try:
        verifier.verify(certificate(made.cert_file), [])
    except VerificationError:
        return False
    return True


def test_a_server_certificate_of_a_service_does_not_open_etcd(tmp_path: Path) -> None:
    """A process that can read a service's certificate and key must not become a client of etcd."""
    services = development_certificates(tmp_path, now=NOW)
    etcd = etcd_certificates(tmp_path, now=NOW)
    assert etcd.server.ca_file == etcd.client.ca_file == services.ca_file
    assert is_client_certificate(etcd.client)
    assert not is_client_certificate(services)
    verifier = PolicyBuilder().store(Store([certificate(services.ca_file)])).time(NOW)
    assert verifier.build_server_verifier(x509.DNSName("localhost")).verify(certificate(etcd.server.cert_file), [])
    with pytest.raises(VerificationError):
        verifier.build_server_verifier(x509.DNSName("localhost")).verify(certificate(etcd.client.cert_file), [])


def test_an_older_folder_gets_etcd_certificates_and_keeps_the_others(tmp_path: Path) -> None:
    before = development_certificates(tmp_path, now=NOW)
    kept = [path.read_bytes() for path in (before.ca_file, before.cert_file)]
    etcd = etcd_certificates(tmp_path, now=NOW)
    assert etcd == etcd_certificates(tmp_path, now=NOW)
    assert [path.read_bytes() for path in (before.ca_file, before.cert_file)] == kept
    assert is_client_certificate(etcd.client)


def test_valid_certificates_are_kept(tmp_path: Path) -> None:
    first = development_certificates(tmp_path, now=NOW)
    before = [path.read_bytes() for path in (first.ca_file, first.cert_file, first.key_file)]
    again = development_certificates(tmp_path, now=NOW + 80 * DAYS)
    assert [path.read_bytes() for path in (again.ca_file, again.cert_file, again.key_file)] == before


def test_a_server_certificate_is_renewed_before_it_expires_and_the_ca_stays(tmp_path: Path) -> None:
    """Clients that trust the CA must not notice the renewal."""
    first = development_certificates(tmp_path, now=NOW)
    ca, server = first.ca_file.read_bytes(), first.cert_file.read_bytes()
    later = development_certificates(tmp_path, now=NOW + 84 * DAYS)
    assert later.ca_file.read_bytes() == ca
    assert later.cert_file.read_bytes() != server
    assert certificate(later.cert_file).not_valid_after_utc > NOW + 170 * DAYS


def test_a_new_ca_replaces_the_certificates_of_the_old_one(tmp_path: Path) -> None:
    first = development_certificates(tmp_path, now=NOW)
    server = first.cert_file.read_bytes()
    etcd_certificates(tmp_path, now=NOW + 350 * DAYS)
    later = development_certificates(tmp_path, now=NOW + 359 * DAYS)
    assert later.cert_file.read_bytes() != server
    # The client certificate is valid for months, but the new CA did not sign it.
    client = etcd_certificates(tmp_path, now=NOW + 359 * DAYS).client
    certificate(client.cert_file).verify_directly_issued_by(certificate(later.ca_file))
    store = Store([certificate(later.ca_file)])
    verifier = PolicyBuilder().store(store).time(NOW + 359 * DAYS).build_server_verifier(x509.DNSName("localhost"))
    assert verifier.verify(certificate(later.cert_file), [])


def test_a_truncated_certificate_is_replaced(tmp_path: Path) -> None:
    made = development_certificates(tmp_path, now=NOW)
    made.cert_file.write_bytes(made.cert_file.read_bytes()[:100])
    again = development_certificates(tmp_path, now=NOW)
    assert certificate(again.cert_file)


def test_only_the_owner_can_read_private_keys(tmp_path: Path) -> None:
    made = development_certificates(tmp_path / "tls", now=NOW)
    etcd = etcd_certificates(tmp_path / "tls", now=NOW)
    for path in (made.key_file, etcd.server.key_file, etcd.client.key_file, made.ca_file.with_name("ca.key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
