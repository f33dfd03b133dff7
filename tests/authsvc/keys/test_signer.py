"""The signer's tokens are verified by nodes and by any other JWT library."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from joserfc import jwk, jwt

from authsvc.keys import algorithms
from authsvc.keys.signer import Signer
from authsvc.keys.signer_cache import KeyMissing, SignerCache, load_signer
from authsvc.keys.vault import Vault, VaultError
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, Put
from interceptors.keyspace import Layout
from interceptors.tokens import base64url
from interceptors.tokens.access_token import TokenReader
from interceptors.tokens.token_rules import ALGORITHMS
from interceptors.tokens.verification_key import read_key
from tests.authsvc.keys.etcd_model import ModelEtcd

CLAIMS = {
    "iss": "https://auth",
    "sub": "ålice",
    "aud": ["orders"],
    "client_id": "password",
    "scope": "a b",
    "jti": "j",
    "iat": 1.0,
    "nbf": 1.0,
    "exp": 2.0,
    "epoch": 3,
}


def record(kid: str, algorithm: str, public_key: bytes) -> bytes:
    return mesh_pb2.VerificationKey(
        format=1, kid=kid, algorithm=algorithm, public_key=public_key, state=mesh_pb2.VerificationKey.STATE_ACTIVE
    ).SerializeToString()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_node_verifies_what_the_signer_signs(algorithm: str) -> None:
    key = algorithms.generate_private_key(algorithm)
    token = Signer("k1", algorithm, key).sign(CLAIMS)
    verification_key = read_key(record("k1", algorithm, algorithms.public_der(key)))
    read = TokenReader("https://auth", {"k1": verification_key}).read(token)
    assert read.caller.subject == "ålice"
    assert read.caller.claims == CLAIMS


# RFC 9864 prefers the name Ed25519, but deployed software, such as PyJWT and Envoy, uses EdDSA (RFC 8037).
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_library_verifies_what_the_signer_signs(algorithm: str) -> None:
    key = algorithms.generate_private_key(algorithm)
    token = Signer("k1", algorithm, key).sign(CLAIMS)
    kinds: dict[str, Any] = {"EdDSA": jwk.OKPKey, "ES256": jwk.ECKey, "RS256": jwk.RSAKey}
    theirs = kinds[algorithm].import_key(algorithms.public_der(key))
    assert jwt.decode(token, theirs, algorithms=[algorithm]).claims == CLAIMS


def test_the_header_has_algorithm_kid_and_type_and_nothing_else() -> None:
    token = Signer("k1", "EdDSA", algorithms.generate_private_key("EdDSA")).sign(CLAIMS)
    header = token.split(".")[0]
    assert json.loads(base64url.decode(header)) == {"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", "\ud800"], ids=["nan", "inf", "bytes", "surrogate"])
def test_a_claim_that_json_cannot_represent_is_not_signed(value: object) -> None:
    signer = Signer("k1", "EdDSA", algorithms.generate_private_key("EdDSA"))
    with pytest.raises((TypeError, ValueError)):
        signer.sign({"claim": value})


def test_a_signer_refuses_a_key_of_another_algorithm() -> None:
    with pytest.raises(ValueError, match="does not sign RS256"):
        Signer("k1", "RS256", algorithms.generate_private_key("EdDSA"))


class TestSignerCache:
    layout = Layout("/m/")
    vault = Vault(b"k" * 32)

    def put(self, etcd: ModelEtcd, kid: str) -> None:
        key = algorithms.generate_private_key("EdDSA")
        etcd.commit(
            [],
            [
                Put(self.layout.key(kid), record(kid, "EdDSA", algorithms.public_der(key))),
                Put(self.layout.sealed_key(kid), self.vault.seal(kid, key).SerializeToString()),
            ],
        )

    def test_a_key_is_loaded_once(self) -> None:
        etcd = ModelEtcd()
        self.put(etcd, "k1")
        signers = SignerCache(etcd.client, self.layout, self.vault)
        assert signers.signer("k1").kid == "k1"
        assert signers.signer("k1") is signers.signer("k1")

    def test_only_the_newest_keys_stay_loaded(self) -> None:
        etcd = ModelEtcd()
        signers = SignerCache(etcd.client, self.layout, self.vault)
        for number in range(6):
            self.put(etcd, f"k{number}")
            signers.signer(f"k{number}")
        etcd.commit([], [Delete(self.layout.keys, prefix=True)])
        assert signers.signer("k5").kid == "k5"
        with pytest.raises(KeyMissing, match="'k0' does not exist any more"):
            signers.signer("k0")

    @pytest.mark.parametrize("missing", ["key", "sealed_key"])
    def test_a_key_that_lacks_one_of_its_records_is_missing(self, missing: str) -> None:
        etcd = ModelEtcd()
        self.put(etcd, "k1")
        etcd.commit([], [Delete(getattr(self.layout, missing)("k1"))])
        with pytest.raises(KeyMissing):
            SignerCache(etcd.client, self.layout, self.vault).signer("k1")

    def test_an_error_says_what_to_do_about_a_missing_key_encryption_key(self) -> None:
        etcd = ModelEtcd()
        self.put(etcd, "k1")
        with pytest.raises(KeyMissing, match="give it that key-encryption key too and restart it"):
            SignerCache(etcd.client, self.layout, Vault(b"x" * 32)).signer("k1")


def test_halves_of_two_keys_make_no_signer() -> None:
    vault = Vault(b"k" * 32)
    sealed = vault.seal("k1", algorithms.generate_private_key("EdDSA")).SerializeToString()
    other = record("k1", "EdDSA", algorithms.public_der(algorithms.generate_private_key("EdDSA")))
    with pytest.raises(VaultError, match="not the private half"):
        load_signer(vault, "k1", other, sealed)
