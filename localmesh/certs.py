"""A development certificate authority and its certificates, for this machine only. So even a first try uses TLS."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Certificates", "EtcdCertificates", "development_certificates", "etcd_certificates"]

_HOURS: Final = datetime.timedelta(hours=1)
_DAYS: Final = datetime.timedelta(days=1)
_CA_LIFETIME: Final = 365 * _DAYS
_LIFETIME: Final = 90 * _DAYS
_RENEW_BEFORE: Final = 7 * _DAYS

_SERVER: Final = (ExtendedKeyUsageOID.SERVER_AUTH,)
_CLIENT: Final = (ExtendedKeyUsageOID.CLIENT_AUTH,)


@dataclass(frozen=True, slots=True)
class Certificates:
    """The paths of a certificate, its key and its authority's certificate, as PEM."""

    ca_file: Path
    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class EtcdCertificates:
    """The certificates of an etcd and of its clients."""

    server: Certificates
    client: Certificates


def development_certificates(folder: Path, *, now: datetime.datetime | None = None) -> Certificates:
    """Makes or renews the folder's server certificate if needed. It is valid for localhost, 127.0.0.1 and ::1 only."""
    return _certificates(folder, "server", _SERVER, now or datetime.datetime.now(datetime.UTC))


def etcd_certificates(folder: Path, *, now: datetime.datetime | None = None) -> EtcdCertificates:
    """Makes or renews the certificates of an etcd and its clients if needed, with the same authority.

    A service's server certificate does not open etcd: its extended key usage does not allow client authentication.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    # etcd is also a client of itself: its JSON gateway and its health check connect to its own port.
    server = _certificates(folder, "etcd", (*_SERVER, *_CLIENT), now)
    return EtcdCertificates(server, _certificates(folder, "etcd-client", _CLIENT, now))


def _certificates(
    folder: Path, name: str, usages: Sequence[x509.ObjectIdentifier], now: datetime.datetime
) -> Certificates:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = Certificates(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
    ca_key_file = folder / "ca.key"
    authority = _lasting(found.ca_file, now) if ca_key_file.exists() else None
    if authority is None:
        new_key = ec.generate_private_key(ec.SECP256R1())
        _write(ca_key_file, _pem(new_key), mode=0o600)
        authority = _authority(new_key, now)
        _write(found.ca_file, authority.public_bytes(serialization.Encoding.PEM))
    certificate = _lasting(found.cert_file, now) if found.key_file.exists() else None
    if certificate is None or not _issued(certificate, authority):
        ca_key = serialization.load_pem_private_key(ca_key_file.read_bytes(), password=None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{ca_key_file} is not an elliptic-curve key; delete {folder} to make new certificates")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(key, usages, authority, ca_key, now)
        _write(found.key_file, _pem(key), mode=0o600)
        _write(found.cert_file, certificate.public_bytes(serialization.Encoding.PEM))
    return found


def _lasting(path: Path, now: datetime.datetime) -> x509.Certificate | None:
    """The certificate in a file; None if the file has none, or if it must be renewed."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None  # absent, or truncated by a crash while it was written
    return certificate if certificate.not_valid_after_utc > now + _RENEW_BEFORE else None


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether this authority signed the certificate. An expired authority is replaced by one with the same name."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, InvalidSignature):
        return False
    return True


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "credmesh development CA (this machine only)")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _builder(name, name, key.public_key(), now, _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _certificate(
    key: ec.EllipticCurvePrivateKey,
    usages: Sequence[x509.ObjectIdentifier],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    return (
        _builder(name, authority.subject, key.public_key(), now, _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _HOURS)  # clocks of containers and virtual machines differ a little
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Writes a file atomically, and with its final permissions from the beginning."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    temporary.replace(path)
