"""The vault: seals private keys under a key-encryption key (KEK). etcd holds private keys only sealed.

Sealing is AES-256-GCM (NIST SP 800-38D) with a random nonce. Purpose and kid are the associated data, so a sealed key
that is moved to another kid or another use does not open. A KEK seals a few keys a day, far from the 2^32 messages that
random nonces allow.

A replica may have several KEKs: the first one seals, and all of them open. To replace the KEK, add the new one in
second place on every replica, then move it to the first place, rotate the signing key, and drop the old KEK when no key
is sealed under it any more. A replica that lacks a KEK does not sign with the keys sealed under it, and leaves the
rotation to other replicas.
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
from credmesh.store.v1 import auth_pb2
from interceptors.errors import CredmeshError, SettingsError
from interceptors.stored_records import FORMAT, RecordError, parse_record

__all__ = ["KEK_BYTES", "KekMissing", "Vault", "VaultError", "read_keks"]

KEK_BYTES: Final = 32
NONCE_BYTES: Final = 12
_PURPOSE: Final = b"credmesh signing key"


class VaultError(CredmeshError):
    """A sealed key does not open. The text says why and what to do, and contains no secret."""


class KekMissing(VaultError):
    """This replica does not have the key-encryption key of a sealed key. Another replica may have it."""


class Vault:
    """Seals private keys, and opens sealed ones.

    kek    the key-encryption key that seals and opens, 32 bytes
    older  key-encryption keys that only open
    """

    def __init__(self, kek: bytes, *older: bytes) -> None:
        for key in (kek, *older):
            if len(key) != KEK_BYTES:
                raise ValueError(f"a key-encryption key has {KEK_BYTES} bytes, not {len(key)}")
        self._ciphers = {kek_id(key): AESGCM(key) for key in (kek, *older)}
        self.kek_id = kek_id(kek)

    def __repr__(self) -> str:
        return f"Vault({', '.join(self._ciphers)})"

    def seal(self, kid: str, private_key: PrivateKey) -> auth_pb2.SealedKey:
        """Seals a private key under its kid."""
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = self._ciphers[self.kek_id].encrypt(nonce, private_der(private_key), _associated_data(kid))
        return auth_pb2.SealedKey(format=FORMAT, kek_id=self.kek_id, nonce=nonce, ciphertext=ciphertext)

    def open(self, kid: str, sealed: bytes, algorithm: str) -> PrivateKey:
        """Opens a `vault/<kid>` record.

        VaultError if it cannot be read, was altered or is of another kid; KekMissing.
        """
        try:
            record = parse_record(auth_pb2.SealedKey, sealed)
        except RecordError as error:
            raise VaultError(f"the sealed key {kid!r} cannot be read: {error}") from None
        cipher = self._ciphers.get(record.kek_id)
        if cipher is None:
            raise KekMissing(
                f"key {kid!r} is sealed under the key-encryption key {record.kek_id!r}, and this replica has only "
                f"{', '.join(self._ciphers)}; give it that key-encryption key too and restart it, or, if it is lost: "
                f"credmesh revoke-key {kid}"
            )
        try:
            der = cipher.decrypt(record.nonce, record.ciphertext, _associated_data(kid))
            return load_private_key(der, algorithm)
        except InvalidTag:
            raise VaultError(f"the sealed key {kid!r} was altered or belongs to another kid; revoke the key") from None
        except ValueError as error:
            raise VaultError(f"the sealed key {kid!r} cannot be used: {error}; revoke the key") from None


def kek_id(kek: bytes) -> str:
    """The id of a key-encryption key, which reveals nothing of it: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(kek).hexdigest()[:16]


def read_keks(*, file: Path | None, text: str = "") -> tuple[bytes, ...]:
    """Reads the key-encryption keys, in base64, from a file or, without a file, from text. The first one seals.

    Several are separated by line ends, blanks or commas. SettingsError names the variable, never its value.
    """
    variable = "CREDMESH_KEK"
    if file is not None:
        variable = "CREDMESH_KEK_FILE"
        try:
            text = file.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            problem = error.strerror if isinstance(error, OSError) else "is not text"
            raise SettingsError(f"{variable}={file} cannot be read: {problem}") from None
    keks = tuple(_decode(part, variable) for part in text.replace(",", " ").split())
    if not keks:
        raise SettingsError(f"{variable} is empty; set it to the output of `openssl rand -base64 {KEK_BYTES}`")
    return keks


def _decode(text: str, variable: str) -> bytes:
    try:
        kek = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        kek = b""
    if len(kek) != KEK_BYTES:
        raise SettingsError(
            f"{variable} is not {KEK_BYTES} bytes in base64; set it to the output of `openssl rand -base64 {KEK_BYTES}`"
        )
    return kek


def _associated_data(kid: str) -> bytes:
    return _PURPOSE + b"\0" + kid.encode()
