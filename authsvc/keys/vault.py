"""The vault: private keys lie in etcd only sealed, under a key-encryption key (KEK) that only the auth service has.

AES-256-GCM (NIST SP 800-38D) with a random nonce. The purpose and the kid are associated data, so a sealed key that is
moved to another kid, or to another use, does not open. One KEK seals a few keys a day, far from the 2^32 that random
nonces allow.

Replacing the KEK: give every replica the new one in second place, then in first place, rotate the signing key, and drop
the old one when no key is left that it sealed. The first seals; all of them open. A replica that lacks one of them does
not sign what that one sealed, and leaves the rotation to those that can.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from authsvc.keys.algorithms import PrivateKey, load_private_key, private_der
from authsvc.store.records import FORMAT, RecordError, parse_record
from credmesh.store.v1 import auth_pb2
from interceptors.errors import CredmeshError, SettingsError

__all__ = ["KEK_BYTES", "KekMissing", "Vault", "VaultError", "read_keks"]

KEK_BYTES: Final = 32
NONCE_BYTES: Final = 12
_PURPOSE: Final = b"credmesh signing key"


class VaultError(CredmeshError):
    """A sealed key does not open. The text says why and what to do; it holds nothing secret."""


class KekMissing(VaultError):
    """It does not open here; another replica may have the key-encryption key, and then nothing is wrong with it."""


class Vault:
    """Seals private keys, and opens them again.

    kek    the key-encryption key, 32 bytes: seals and opens
    older  key-encryption keys that are on their way out: they only open
    """

    def __init__(self, kek: bytes, *older: bytes) -> None:
        for one in (kek, *older):
            if len(one) != KEK_BYTES:
                raise ValueError(f"a key-encryption key has {KEK_BYTES} bytes, not {len(one)}")
        self._ciphers = {kek_id(one): AESGCM(one) for one in (kek, *older)}
        self.kek_id = kek_id(kek)

    def __repr__(self) -> str:
        return f"Vault({', '.join(self._ciphers)})"

    def seal(self, kid: str, private_key: PrivateKey) -> auth_pb2.SealedKey:
        """Seals a private key under its kid."""
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = self._ciphers[self.kek_id].encrypt(nonce, private_der(private_key), _associated_data(kid))
        return auth_pb2.SealedKey(format=FORMAT, kek_id=self.kek_id, nonce=nonce, ciphertext=ciphertext)

    def open(self, kid: str, sealed: bytes, algorithm: str) -> PrivateKey:
        """Opens a `vault/<kid>` record. VaultError if it is foreign, altered or of another kid; KekMissing."""
        try:
            record = parse_record(auth_pb2.SealedKey, sealed)
        except RecordError as error:
            raise VaultError(f"the sealed key {kid!r} cannot be read: {error}") from None
        cipher = self._ciphers.get(record.kek_id)
        if cipher is None:
            raise KekMissing(
                f"key {kid!r} is sealed under the key-encryption key {record.kek_id!r}, and this replica has only "
                f"{', '.join(self._ciphers)}; give it that one too and restart it, or, if nobody has that one any "
                f"more: credmesh revoke-key {kid}"
            )
        try:
            der = cipher.decrypt(record.nonce, record.ciphertext, _associated_data(kid))
            return load_private_key(der, algorithm)
        except InvalidTag:
            raise VaultError(f"the sealed key {kid!r} was altered, or belongs to another kid; revoke the key") from None
        except ValueError as error:
            raise VaultError(f"the sealed key {kid!r} cannot be used: {error}; revoke the key") from None


def kek_id(kek: bytes) -> str:
    """Names a key-encryption key without telling anything of it: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(kek).hexdigest()[:16]


def read_keks(*, file: Path | None, text: str = "") -> tuple[bytes, ...]:
    """The key-encryption keys from a file or, where there is none, from text: base64, the one that seals first.

    Several are separated by line ends, blanks or commas. SettingsError names the variable, never what it holds.
    """
    variable = "CREDMESH_KEK"
    if file is not None:
        variable = "CREDMESH_KEK_FILE"
        try:
            text = file.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            problem = error.strerror if isinstance(error, OSError) else "is not text"
            raise SettingsError(f"{variable}={file} cannot be read: {problem}") from None
    keks = tuple(_decode(one, variable) for one in text.replace(",", " ").split())
    if not keks:
        raise SettingsError(f"{variable} holds no key; for example: the output of `openssl rand -base64 {KEK_BYTES}`")
    return keks


def _decode(text: str, variable: str) -> bytes:
    try:
        kek = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        kek = b""
    if len(kek) != KEK_BYTES:
        raise SettingsError(
            f"{variable} is not {KEK_BYTES} bytes in base64; for example: the output of "
            f"`openssl rand -base64 {KEK_BYTES}`"
        )
    return kek


def _associated_data(kid: str) -> bytes:
    return _PURPOSE + b"\0" + kid.encode()
