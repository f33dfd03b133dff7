"""The development CA: good for this machine only, renewed in time, its key for its owner's eyes."""

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


def test_the_server_certificate_verifies_for_this_machine(tmp_path: Path) -> None:
    made = development_certificates(tmp_path, now=NOW)
    store = Store([certificate(made.ca_file)])
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    names: list[x509.DNSName | x509.IPAddress] = [x509.DNSName("localhost"), *addresses]
    for name in names:
        verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(name)
        assert verifier.verify(certificate(made.cert_file), [])


def good_for_a_client(made: Certificates) -> bool:
    """Whether a server that trusts the CA would let its bearer in."""
    verifier = PolicyBuilder().store(Store([certificate(made.ca_file)])).time(NOW).build_client_verifier()
    try:
        verifier.verify(certificate(made.cert_file), [])
    except VerificationError:
        return False
    return True


def test_etcd_lets_in_its_clients_and_nobody_elses_certificate(tmp_path: Path) -> None:
    """Whoever may read a service's certificate and key is no client of etcd by that."""
    services = development_certificates(tmp_path, now=NOW)
    etcd = etcd_certificates(tmp_path, now=NOW)
    assert etcd.server.ca_file == etcd.client.ca_file == services.ca_file
    assert good_for_a_client(etcd.client)
    assert not good_for_a_client(services)
    verifier = PolicyBuilder().store(Store([certificate(services.ca_file)])).time(NOW)
    assert verifier.build_server_verifier(x509.DNSName("localhost")).verify(certificate(etcd.server.cert_file), [])
    with pytest.raises(VerificationError):
        verifier.build_server_verifier(x509.DNSName("localhost")).verify(certificate(etcd.client.cert_file), [])


def test_a_folder_of_before_gets_what_it_lacks_and_keeps_what_it_has(tmp_path: Path) -> None:
    before = development_certificates(tmp_path, now=NOW)
    kept = [path.read_bytes() for path in (before.ca_file, before.cert_file)]
    etcd = etcd_certificates(tmp_path, now=NOW)
    assert etcd == etcd_certificates(tmp_path, now=NOW)
    assert [path.read_bytes() for path in (before.ca_file, before.cert_file)] == kept
    assert good_for_a_client(etcd.client)


def test_what_is_good_is_kept(tmp_path: Path) -> None:
    first = development_certificates(tmp_path, now=NOW)
    before = [path.read_bytes() for path in (first.ca_file, first.cert_file, first.key_file)]
    again = development_certificates(tmp_path, now=NOW + 80 * DAYS)
    assert [path.read_bytes() for path in (again.ca_file, again.cert_file, again.key_file)] == before


def test_a_server_certificate_is_renewed_before_it_expires_and_the_ca_stays(tmp_path: Path) -> None:
    """Clients that trust the CA go on trusting."""
    first = development_certificates(tmp_path, now=NOW)
    ca, server = first.ca_file.read_bytes(), first.cert_file.read_bytes()
    later = development_certificates(tmp_path, now=NOW + 84 * DAYS)
    assert later.ca_file.read_bytes() == ca
    assert later.cert_file.read_bytes() != server
    assert certificate(later.cert_file).not_valid_after_utc > NOW + 170 * DAYS


def test_a_ca_that_runs_out_takes_its_certificates_along(tmp_path: Path) -> None:
    first = development_certificates(tmp_path, now=NOW)
    server = first.cert_file.read_bytes()
    etcd_certificates(tmp_path, now=NOW + 350 * DAYS)
    later = development_certificates(tmp_path, now=NOW + 359 * DAYS)
    assert later.cert_file.read_bytes() != server
    # It would not run out for months, but nobody trusts any more who signed it.
    client = etcd_certificates(tmp_path, now=NOW + 359 * DAYS).client
    certificate(client.cert_file).verify_directly_issued_by(certificate(later.ca_file))
    store = Store([certificate(later.ca_file)])
    verifier = PolicyBuilder().store(store).time(NOW + 359 * DAYS).build_server_verifier(x509.DNSName("localhost"))
    assert verifier.verify(certificate(later.cert_file), [])


def test_a_certificate_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    made = development_certificates(tmp_path, now=NOW)
    made.cert_file.write_bytes(made.cert_file.read_bytes()[:100])
    again = development_certificates(tmp_path, now=NOW)
    assert certificate(again.cert_file)


def test_private_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    made = development_certificates(tmp_path / "tls", now=NOW)
    etcd = etcd_certificates(tmp_path / "tls", now=NOW)
    for path in (made.key_file, etcd.server.key_file, etcd.client.key_file, made.ca_file.with_name("ca.key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
