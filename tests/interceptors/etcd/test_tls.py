"""TLS to etcd, with client certificates."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put
from localmesh.etcd.process import EtcdProcess, EtcdTls
from tests.support.etcd.follower import following
from tests.support.waiting import free_port, wait_until


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        self.ca_file = folder / "ca.pem"
        builder = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self._write(self.ca_file, builder.sign(self._key, hashes.SHA256()))

    def issue(self, name: str) -> EtcdTls:
        """Issues a certificate for 127.0.0.1 and localhost, for servers and for clients."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        files = EtcdTls(
            ca_file=self.ca_file, cert_file=self._folder / f"{name}.pem", key_file=self._folder / f"{name}.key"
        )
        self._write(files.cert_file, builder.sign(self._key, hashes.SHA256()))
        files.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    @staticmethod
    def _write(path: Path, certificate: x509.Certificate) -> None:
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that etcd and its clients trust."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def tls_etcd(tmp_path: Path, authority: Authority) -> Iterator[EtcdProcess]:
    """An etcd that requires a client certificate."""
    with EtcdProcess(tmp_path / "etcd", unsafe_no_fsync=True, tls=authority.issue("etcd")) as process:
        yield process


def test_reads_commits_and_watches_go_over_tls(tls_etcd: EtcdProcess, authority: Authority) -> None:
    node = authority.issue("node")
    settings = replace(tls_etcd.settings("/test/"), cert_file=node.cert_file, key_file=node.key_file)
    with EtcdClient(settings) as client, following(settings) as follower:
        assert client.commit([], [Put("/test/a", b"1")]) is not None
        assert client.read("/test/a").values["/test/a"].value == b"1"
        wait_until(lambda: follower.values == {"/test/a": b"1"})


def test_each_endpoints_certificate_is_checked_against_its_own_name(tls_etcd: EtcdProcess) -> None:
    port = tls_etcd.endpoint.rpartition(":")[2]
    endpoints = (f"127.0.0.1:{free_port()}", f"https://localhost:{port}", tls_etcd.endpoint)
    for rotated in (endpoints, endpoints[1:] + endpoints[:1], endpoints[2:] + endpoints[:2]):
        with EtcdClient(replace(tls_etcd.settings(), endpoints=rotated)) as client:
            client.read("/a")


def test_without_a_client_certificate_etcd_refuses(tls_etcd: EtcdProcess) -> None:
    settings = replace(tls_etcd.settings(timeout=1), cert_file=None, key_file=None)
    with EtcdClient(settings) as client, pytest.raises(EtcdUnavailable):
        client.read("/a")


def test_an_etcd_with_a_certificate_of_another_authority_is_not_trusted(tls_etcd: EtcdProcess, tmp_path: Path) -> None:
    settings = replace(tls_etcd.settings(timeout=1), ca_file=Authority(tmp_path / "other").ca_file)
    with EtcdClient(settings) as client, pytest.raises(EtcdUnavailable, match=r"(?i)certificate"):
        client.read("/a")


def test_certificates_that_are_replaced_on_disk_are_used(
    tls_etcd: EtcdProcess, authority: Authority, tmp_path: Path
) -> None:
    """A rotation of certificates replaces the files, and does not restart the processes that read them."""
    old, new = Authority(tmp_path / "other").issue("node"), authority.issue("node")
    mine = EtcdTls(ca_file=tmp_path / "ca", cert_file=tmp_path / "cert", key_file=tmp_path / "key")
    _install(old, mine)
    settings = replace(
        tls_etcd.settings("/test/", timeout=1), ca_file=mine.ca_file, cert_file=mine.cert_file, key_file=mine.key_file
    )
    with EtcdClient(settings) as client, following(settings) as follower:
        with pytest.raises(EtcdUnavailable):
            client.read("/test/a")
        # In the middle of the replacement the files do not belong together. The client must survive that.
        mine.key_file.unlink()
        with pytest.raises(EtcdUnavailable):
            client.read("/test/a")
        _install(new, mine)
        wait_until(lambda: _commits(client))
        wait_until(lambda: follower.values == {"/test/a": b"1"})


def _install(source: EtcdTls, target: EtcdTls) -> None:
    for name in ("ca_file", "cert_file", "key_file"):
        shutil.copy(getattr(source, name), getattr(target, name))


def _commits(client: EtcdClient) -> bool:
    try:
        client.commit([], [Put("/test/a", b"1")])
    except EtcdUnavailable:
        return False
    return True


def test_an_etcd_with_tls_does_not_accept_plaintext(tls_etcd: EtcdProcess) -> None:
    settings = replace(tls_etcd.settings(timeout=0.5), ca_file=None, cert_file=None, key_file=None)
    with EtcdClient(settings) as client, pytest.raises(EtcdUnavailable):
        client.read("/a")
