"""Certificates and keys on disk: an error names the variable of the file, and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from interceptors import EtcdSettings, SettingsError
from interceptors.etcd.client import EtcdClient
from interceptors.pem import read_certificates, read_pair
from localmesh.certs import Certificates, development_certificates


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return development_certificates(tmp_path / "good")


def pair(cert_file: Path, key_file: Path) -> tuple[bytes, bytes]:
    return read_pair("THE_CERT", cert_file, "THE_KEY", key_file, examples=("/c.pem", "/k.pem"))


def test_valid_files_are_returned_unchanged(files: Certificates) -> None:
    assert pair(files.cert_file, files.key_file) == (files.cert_file.read_bytes(), files.key_file.read_bytes())
    assert read_certificates("THE_CA", files.ca_file, example="/ca.pem") == files.ca_file.read_bytes()


def absent(_: Certificates, folder: Path) -> Path:
    return folder / "absent"


def garbage(_: Certificates, folder: Path) -> Path:
    path = folder / "garbage"
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    return path


def empty(_: Certificates, folder: Path) -> Path:
    path = folder / "empty"
    path.write_bytes(b"")
    return path


def a_folder(_: Certificates, folder: Path) -> Path:
    return folder


def the_key(files: Certificates, _: Path) -> Path:
    return files.key_file


def the_certificate(files: Certificates, _: Path) -> Path:
    return files.cert_file


def another_key(_: Certificates, folder: Path) -> Path:
    return development_certificates(folder / "other").key_file


def locked_key(_: Certificates, folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    path = folder / "locked.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))
    return path


Make = Callable[[Certificates, Path], Path]


@pytest.mark.parametrize("make", [absent, garbage, empty, a_folder, the_key])
def test_an_invalid_certificate_file_is_named_with_an_example(files: Certificates, tmp_path: Path, make: Make) -> None:
    wrong = make(files, tmp_path)
    for read in (lambda: pair(wrong, files.key_file), lambda: read_certificates("THE_CERT", wrong, example="/c.pem")):
        with pytest.raises(SettingsError) as caught:
            read()
        assert str(caught.value).startswith(f"THE_CERT={wrong} ")
        assert str(caught.value).endswith("; for example: THE_CERT=/c.pem")


@pytest.mark.parametrize("make", [absent, garbage, empty, a_folder, the_certificate, another_key, locked_key])
def test_an_invalid_or_foreign_key_file_is_named_with_an_example(
    files: Certificates, tmp_path: Path, make: Make
) -> None:
    wrong = make(files, tmp_path)
    with pytest.raises(SettingsError) as caught:
        pair(files.cert_file, wrong)
    assert str(caught.value).startswith(f"THE_KEY={wrong} ")
    assert str(caught.value).endswith("; for example: THE_KEY=/k.pem")


@pytest.mark.parametrize("variable", ["ETCD_CA_FILE", "ETCD_CERT_FILE", "ETCD_KEY_FILE"])
def test_an_invalid_tls_file_for_etcd_is_named_at_once(files: Certificates, tmp_path: Path, variable: str) -> None:
    """gRPC would accept the file, and etcd would seem not to answer."""
    chosen = {"ETCD_CA_FILE": files.ca_file, "ETCD_CERT_FILE": files.cert_file, "ETCD_KEY_FILE": files.key_file}
    chosen[variable] = garbage(files, tmp_path)
    ca_file, cert_file, key_file = chosen.values()
    settings = EtcdSettings(endpoints=("127.0.0.1:1",), ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    with pytest.raises(SettingsError, match=f"{variable}=.*; for example: {variable}=/etc"):
        EtcdClient(settings)
