"""Every token of a revoked key is refused, whatever a thief of the key writes into it."""

from __future__ import annotations

import time

import pytest

from interceptors import Reason, Refusal
from interceptors.etcd.client import KeyValue, Snapshot
from interceptors.etcd.mirror import Event
from interceptors.keyspace import Layout
from interceptors.scopes import key_scope
from interceptors.trust.bundle import TrustBundle
from interceptors.verification.verifier import KeyRevoked, VerifiedCredential, Verifier
from tests.interceptors.tokens.test_access_token import PRIVATE, sign
from tests.support.probe.issuer import claims, key_record

LAYOUT = Layout("/credmesh/")
RECORD = key_record("k1", PRIVATE).SerializeToString()
TOKEN = sign(claims(epoch=1 << 60, exp=time.time() + 1e8, iss="https://auth.test"))


@pytest.fixture
def bundle() -> TrustBundle:
    bundle = TrustBundle(LAYOUT, "https://auth.test")
    bundle.load(Snapshot({LAYOUT.key("k1"): KeyValue(RECORD, 2, 2, 0)}, 10))
    return bundle


@pytest.fixture
def verifier(bundle: TrustBundle) -> Verifier:
    return Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10)


def verify(verifier: Verifier) -> VerifiedCredential:
    with pytest.raises(StopIteration) as done:
        next(verifier.authenticate(TOKEN, time.time()))
    verified: VerifiedCredential = done.value.value
    return verified


def revoked(key: str, value: bytes | None) -> list[Event]:
    """The events by which a key's scope is revoked and its record replaced."""
    return [Event(LAYOUT.epoch(key_scope(key)), b"", 11), Event(LAYOUT.key(key), value, 11)]


def test_a_cached_credential_of_a_revoked_key_is_refused_and_dropped(bundle: TrustBundle, verifier: Verifier) -> None:
    verified = verify(verifier)
    verifier.recheck(verified)
    assert verifier.cached == 1
    bundle.apply(revoked("k1", None), 11)
    with pytest.raises(KeyRevoked) as refused:
        verifier.recheck(verified)
    assert refused.value.reason is Reason.KEY_UNKNOWN
    assert verifier.cached == 0


def test_the_removal_of_a_retired_key_is_not_a_key_revocation(bundle: TrustBundle, verifier: Verifier) -> None:
    verified = verify(verifier)
    bundle.apply([Event(LAYOUT.key("k1"), None, 11)], 11)
    with pytest.raises(Refusal) as refused:
        verifier.recheck(verified)
    assert refused.value.reason is Reason.KEY_UNKNOWN
    assert not isinstance(refused.value, KeyRevoked)


def test_a_revoked_key_that_is_published_again_verifies_nothing(bundle: TrustBundle, verifier: Verifier) -> None:
    bundle.apply(revoked("k1", RECORD), 11)
    with pytest.raises(KeyRevoked):
        next(verifier.authenticate(TOKEN, time.time()))


def test_the_revocation_of_another_key_refuses_nothing(bundle: TrustBundle, verifier: Verifier) -> None:
    verified = verify(verifier)
    bundle.apply(revoked("k2", None), 11)
    verifier.recheck(verified)
    assert verified.bundle_version == bundle.version
