"""A sealed key reveals no private key, and opens only as the key, kid and use for which it was sealed."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from authsvc.keys import algorithms
from authsvc.keys.algorithms import UnknownAlgorithm, private_der
from authsvc.keys.vault import Vault, VaultError, read_keks
from credmesh.store.v1 import auth_pb2
from interceptors.errors import SettingsError
from interceptors.tokens.token_rules import ALGORITHMS

OLD, NEW = b"o" * 32, b"n" * 32
KEY = algorithms.generate_private_key("EdDSA")


def sealed(vault: Vault, kid: str = "k1") -> auth_pb2.SealedKey:
    return vault.seal(kid, KEY)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sealed_key_of_every_algorithm_opens_as_the_same_key(algorithm: str) -> None:
    vault, key = Vault(NEW), algorithms.generate_private_key(algorithm)
    opened = vault.open("k1", vault.seal("k1", key).SerializeToString(), algorithm)
    assert private_der(opened) == private_der(key)


def test_a_sealed_key_does_not_contain_the_private_key() -> None:
    record = sealed(Vault(NEW)).SerializeToString()
    assert isinstance(KEY, Ed25519PrivateKey)
    assert KEY.private_bytes_raw() not in record
    assert NEW not in record


def test_sealing_twice_never_uses_a_nonce_twice() -> None:
    vault = Vault(NEW)
    assert len({sealed(vault).nonce for _ in range(100)}) == 100


def test_a_sealed_key_does_not_open_under_another_kid() -> None:
    vault = Vault(NEW)
    with pytest.raises(VaultError, match="'k2' was altered or belongs to another kid"):
        vault.open("k2", sealed(vault, "k1").SerializeToString(), "EdDSA")


@pytest.mark.parametrize("field", ["nonce", "ciphertext"])
def test_a_sealed_key_that_was_altered_does_not_open(field: str) -> None:
    vault, record = Vault(NEW), sealed(Vault(NEW))
    value = getattr(record, field)
    setattr(record, field, bytes([value[0] ^ 1]) + value[1:])
    with pytest.raises(VaultError, match="altered"):
        vault.open("k1", record.SerializeToString(), "EdDSA")


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\xff\xff",
        auth_pb2.SealedKey(format=2, kek_id=Vault(NEW).kek_id).SerializeToString(),
        auth_pb2.SealedKey(format=1, kek_id=Vault(NEW).kek_id).SerializeToString(),
    ],
    ids=["empty", "foreign", "newer", "without its parts"],
)
def test_a_record_that_is_no_sealed_key_is_refused_with_a_reason(record: bytes) -> None:
    with pytest.raises(VaultError, match="the sealed key 'k1'"):
        Vault(NEW).open("k1", record, "EdDSA")


def test_a_key_of_another_algorithm_is_refused() -> None:
    vault = Vault(NEW)
    with pytest.raises(VaultError, match="does not sign ES256"):
        vault.open("k1", sealed(vault).SerializeToString(), "ES256")


def test_a_key_encryption_key_can_be_replaced_while_it_still_seals_keys() -> None:
    before = sealed(Vault(OLD)).SerializeToString()
    vault = Vault(NEW, OLD)
    assert private_der(vault.open("k1", before, "EdDSA")) == private_der(KEY)
    after = sealed(vault)
    assert private_der(Vault(NEW).open("k1", after.SerializeToString(), "EdDSA")) == private_der(KEY)
    with pytest.raises(VaultError, match="give it that key-encryption key too"):
        Vault(NEW).open("k1", before, "EdDSA")


def test_a_key_encryption_key_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        Vault(b"k" * 31)
    with pytest.raises(ValueError, match="32 bytes, not 33"):
        Vault(NEW, b"k" * 33)


def test_a_vault_does_not_show_its_keys() -> None:
    assert "n" * 8 not in repr(Vault(NEW))


def test_key_encryption_keys_are_read_from_a_file_or_from_text(tmp_path: Path) -> None:
    new, old = (base64.b64encode(one).decode() for one in (NEW, OLD))
    file = tmp_path / "kek"
    file.write_text(f"{new}\n{old}\n")
    assert read_keks(file=file) == (NEW, OLD)
    assert read_keks(file=None, text=f"{new},{old}") == (NEW, OLD)


@pytest.mark.parametrize(
    "text", ["", "c2hvcnQ=", "not base64!", base64.b64encode(b"k" * 33).decode()], ids=lambda text: text[:5]
)
def test_a_wrong_key_encryption_key_is_named_by_its_variable_and_not_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "kek"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"CREDMESH_KEK_FILE .*openssl rand -base64 32") as from_file:
        read_keks(file=file)
    with pytest.raises(SettingsError, match=r"CREDMESH_KEK .*openssl rand -base64 32"):
        read_keks(file=None, text=text)
    assert not text or text not in str(from_file.value)


def test_a_key_encryption_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"CREDMESH_KEK_FILE={tmp_path}/none cannot be read: No such file"):
        read_keks(file=tmp_path / "none")
    binary = tmp_path / "binary"
    binary.write_bytes(os.urandom(31) + b"\xff")
    with pytest.raises(SettingsError, match="is not text"):
        read_keks(file=binary)


def test_an_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    for algorithm in ("HS256", "none", "eddsa", ""):
        with pytest.raises(UnknownAlgorithm, match="is not one of EdDSA, ES256, RS256"):
            algorithms.generate_private_key(algorithm)


def test_an_rsa_key_is_as_strong_as_the_other_keys() -> None:
    key = algorithms.generate_private_key("RS256")
    assert isinstance(key, RSAPrivateKey)
    assert key.key_size == 3072
