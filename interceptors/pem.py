"""Reading certificates and private keys from PEM files, and checking them before gRPC gets them.

gRPC accepts any bytes and does not say what is wrong with them: a server then cannot listen, and a client never
connects.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from interceptors.errors import SettingsError

__all__ = ["read_certificates", "read_pair"]


def read_certificates(variable: str, path: Path, *, example: str) -> bytes:
    """Returns a PEM file of certificates. SettingsError names the variable if the file cannot be used."""
    pem = _read(variable, path, example)
    _certificates(variable, path, pem, example)
    return pem


def read_pair(
    cert_variable: str, cert_file: Path, key_variable: str, key_file: Path, *, examples: tuple[str, str]
) -> tuple[bytes, bytes]:
    """Returns a certificate chain and its private key, as PEM. SettingsError unless they belong together.

    examples: values for the certificate's variable and the key's, which the error shows.
    """
    chain = _read(cert_variable, cert_file, examples[0])
    key = _read(key_variable, key_file, examples[1])
    certificate = _certificates(cert_variable, cert_file, chain, examples[0])[0]
    try:
        private_key = load_pem_private_key(key, None)
    except TypeError:
        raise _wrong(key_variable, key_file, "is encrypted; store it without a password", examples[1]) from None
    except (ValueError, UnsupportedAlgorithm):
        # Without the error's text, which may quote the key.
        raise _wrong(key_variable, key_file, "is not a private key in PEM", examples[1]) from None
    if _der(private_key.public_key()) != _der(certificate.public_key()):
        what = f"is not the private key of the first certificate in {cert_variable}={cert_file}"
        raise _wrong(key_variable, key_file, what, examples[1])
    return chain, key


def _read(variable: str, path: Path, example: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _wrong(variable, path, f"cannot be read: {error.strerror}", example) from error


def _certificates(variable: str, path: Path, pem: bytes, example: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise _wrong(variable, path, "contains no certificate in PEM, or one that cannot be read", example) from None


def _der(public_key: object) -> bytes:
    encoded: bytes = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _wrong(variable: str, path: Path, what: str, example: str) -> SettingsError:
    return SettingsError(f"{variable}={path} {what}; for example: {variable}={example}")
