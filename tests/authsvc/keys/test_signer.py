"""What we sign is a token that nodes, and any other JWT library, can verify."""

from __future__ import annotations

import json
import math
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from joserfc import jwk, jwt

from authsvc.keys import algorithms
from authsvc.keys.ring import KeyMissing, KeyRing, open_signer
from authsvc.keys.signer import Signer
from authsvc.keys.vault import Vault, VaultError
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, Put
from interceptors.keyspace import Layout
from interceptors.tokens.access_token import TokenReader
from interceptors.tokens.verification_key import ALGORITHMS, read_key
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
def test_a_node_verifies_what_we_sign(algorithm: str) -> None:
    key = algorithms.generate(algorithm)
    token = Signer("k1", algorithm, key).sign(CLAIMS)
    held = read_key(record("k1", algorithm, algorithms.public_der(key)))
    read = TokenReader("https://auth", {"k1": held}).read(token)
    assert read.caller.subject == "ålice"
    assert read.caller.claims == CLAIMS


# RFC 9864 prefers the name Ed25519; what is deployed, PyJWT and Envoy among it, says EdDSA (RFC 8037).
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_library_verifies_what_we_sign(algorithm: str) -> None:
    key = algorithms.generate(algorithm)
    token = Signer("k1", algorithm, key).sign(CLAIMS)
    kinds: dict[str, Any] = {"EdDSA": jwk.OKPKey, "ES256": jwk.ECKey, "RS256": jwk.RSAKey}
    theirs = kinds[algorithm].import_key(algorithms.public_der(key))
    assert jwt.decode(token, theirs, algorithms=[algorithm]).claims == CLAIMS


def test_the_header_says_algorithm_kid_and_type_and_nothing_else() -> None:
    token = Signer("k1", "EdDSA", algorithms.generate("EdDSA")).sign(CLAIMS)
    header = token.split(".")[0]
    assert json.loads(urlsafe_b64decode(header + "==")) == {"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", "\ud800"], ids=["nan", "inf", "bytes", "surrogate"])
def test_what_json_cannot_hold_is_not_signed(value: object) -> None:
    signer = Signer("k1", "EdDSA", algorithms.generate("EdDSA"))
    with pytest.raises((TypeError, ValueError)):
        signer.sign({"claim": value})


def test_a_signer_is_not_made_of_a_key_of_another_algorithm() -> None:
    with pytest.raises(ValueError, match="does not sign RS256"):
        Signer("k1", "RS256", algorithms.generate("EdDSA"))


class TestKeyRing:
    layout = Layout("/m/")
    vault = Vault(b"k" * 32)

    def put(self, etcd: ModelEtcd, kid: str) -> None:
        key = algorithms.generate("EdDSA")
        etcd.commit(
            [],
            [
                Put(self.layout.key(kid), record(kid, "EdDSA", algorithms.public_der(key))),
                Put(self.layout.sealed_key(kid), self.vault.seal(kid, key).SerializeToString()),
            ],
        )

    def test_a_key_is_opened_once(self) -> None:
        etcd = ModelEtcd()
        self.put(etcd, "k1")
        ring = KeyRing(etcd.client, self.layout, self.vault)
        assert ring.signer("k1").kid == "k1"
        assert ring.signer("k1") is ring.signer("k1")

    def test_only_the_newest_keys_stay_open(self) -> None:
        etcd = ModelEtcd()
        ring = KeyRing(etcd.client, self.layout, self.vault)
        for number in range(6):
            self.put(etcd, f"k{number}")
            ring.signer(f"k{number}")
        etcd.commit([], [Delete(self.layout.keys, prefix=True)])
        assert ring.signer("k5").kid == "k5"
        with pytest.raises(KeyMissing, match="'k0' is not there any more"):
            ring.signer("k0")

    @pytest.mark.parametrize("missing", ["key", "sealed_key"])
    def test_a_key_that_lacks_a_half_is_missing(self, missing: str) -> None:
        etcd = ModelEtcd()
        self.put(etcd, "k1")
        etcd.commit([], [Delete(getattr(self.layout, missing)("k1"))])
        with pytest.raises(KeyMissing):
            KeyRing(etcd.client, self.layout, self.vault).signer("k1")

    def test_a_key_under_another_key_encryption_key_is_missing_and_the_text_says_what_to_do(self) -> None:
        etcd = ModelEtcd()
        self.put(etcd, "k1")
        with pytest.raises(KeyMissing, match="give it that one too and restart it"):
            KeyRing(etcd.client, self.layout, Vault(b"x" * 32)).signer("k1")


def test_halves_of_two_keys_make_no_signer() -> None:
    vault = Vault(b"k" * 32)
    sealed = vault.seal("k1", algorithms.generate("EdDSA")).SerializeToString()
    other = record("k1", "EdDSA", algorithms.public_der(algorithms.generate("EdDSA")))
    with pytest.raises(VaultError, match="not the private half"):
        open_signer(vault, "k1", other, sealed)
