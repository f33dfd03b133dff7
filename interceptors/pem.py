"""Certificates and private keys as PEM files: read, and found to be what they are taken for, before gRPC gets them.

gRPC takes anything, and does not say what is wrong with it: a server cannot listen then, and a client never connects.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from interceptors.errors import SettingsError

__all__ = ["read_certificates", "read_pair"]


def read_certificates(variable: str, path: Path, *, example: str) -> bytes:
    """A file of certificates, PEM. SettingsError, which names the variable, if it cannot be read or holds none."""
    pem = _read(variable, path, example)
    _certificates(variable, path, pem, example)
    return pem


def read_pair(
    cert_variable: str, cert_file: Path, key_variable: str, key_file: Path, *, examples: tuple[str, str]
) -> tuple[bytes, bytes]:
    """A certificate chain and its private key, PEM. SettingsError unless they can be read and belong together.

    examples: of the certificate's variable and of the key's.
    """
    chain = _read(cert_variable, cert_file, examples[0])
    key = _read(key_variable, key_file, examples[1])
    certificate = _certificates(cert_variable, cert_file, chain, examples[0])[0]
    try:
        private_key = load_pem_private_key(key, None)
    except TypeError:
        raise _wrong(
            key_variable, key_file, "is encrypted; it has to be there without a password", examples[1]
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        # Never the error's text: it may quote the key.
        raise _wrong(key_variable, key_file, "is no private key in PEM", examples[1]) from None
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
        raise _wrong(variable, path, "holds no certificate in PEM, or one that cannot be read", example) from None


def _der(public_key: object) -> bytes:
    encoded: bytes = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _wrong(variable: str, path: Path, what: str, example: str) -> SettingsError:
    return SettingsError(f"{variable}={path} {what}; for example: {variable}={example}")
