"""Strict methods: the epochs that a call is checked against are at least as new as the proof that admits it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from credmesh.store.v1 import mesh_pb2
from interceptors import Caller, Reason, Refusal
from interceptors.etcd.client import KeyValue, Snapshot
from interceptors.etcd.mirror import Event
from interceptors.keyspace import Layout
from interceptors.policy import MethodRule
from interceptors.scopes import subject_scope
from interceptors.tokens.verification_key import read_key
from interceptors.trust.bundle import TrustBundle
from interceptors.trust.continuity import NOTHING_OBSERVED, Beacon
from interceptors.verification.verifier import NeedKey, NeedRevision, VerifiedCredential, Verifier
from tests.support.probe.issuer import ISSUER, claims, key_record

LAYOUT = Layout("/credmesh/")
STRICT = MethodRule("/m", audience="probe", freshness=2.5)


class ChangingBundle(TrustBundle):
    """A bundle that changes right after a call has read its version, and so its epochs."""

    change: Callable[[], None] | None = None

    @property
    def version(self) -> int:
        version, change = self._version, self.change
        if change is not None:
            self.change = None
            change()
        return version

    @version.setter
    def version(self, value: int) -> None:
        self._version = value


@pytest.fixture
def bundle() -> ChangingBundle:
    bundle = ChangingBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
    record = key_record("k", Ed25519PrivateKey.generate()).SerializeToString()
    bundle.load(Snapshot({LAYOUT.key("k"): KeyValue(record, 2, 2, 0)}, 10))
    return bundle


def test_a_proof_between_two_reads_does_not_stand_for_unchecked_epochs(bundle: ChangingBundle) -> None:
    """A node that was cut off catches up in the middle of a call: first the revocation, then the proof of freshness."""
    now = 101.0
    verifier = Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10, clock=lambda: now)
    caller = Caller("alice", "app", None, frozenset(), frozenset({"probe"}), 2e9, 10)
    known = VerifiedCredential(
        caller, "token", kid="k", usable_until=2e9, session_ends_at=0.0, bundle_version=bundle.version
    )
    verifier._cache.put("token", known)
    bundle.add_proof(Beacon(10), 100.0)
    assert verifier.verify_cached(STRICT, "token", now=1e9) is known

    def catch_up() -> None:
        bundle.apply([Event(LAYOUT.epoch(subject_scope("alice")), b"", 11)], 11)
        bundle.add_proof(Beacon(11), 199.0)

    now, bundle.change = 200.0, catch_up
    with pytest.raises(Refusal) as refused:
        verifier.verify_cached(STRICT, "token", now=1e9)
    assert refused.value.reason in (Reason.MESH_STALE, Reason.CREDENTIAL_REVOKED)


def test_freshness_counts_when_the_call_is_admitted_not_when_it_arrives() -> None:
    """A verification may wait seconds for a key, or the process may be paused. Meanwhile the proof grows old."""
    bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
    bundle.load(Snapshot({}, 10))
    bundle.add_proof(Beacon(10), 100.0)
    now = 101.0
    verifier = Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10, clock=lambda: now)
    private_key = Ed25519PrivateKey.generate()
    token = jwt.encode(claims(), private_key, algorithm="EdDSA", headers={"kid": "late", "typ": "at+jwt"})
    for waited, admitted in ((1.0, True), (3.0, False)):
        bundle.load(Snapshot({}, 10))
        verifier.clear_cache()
        now = 101.0
        flow = verifier.verify(STRICT, token, time.time())
        assert next(flow) == NeedKey("late")
        bundle.add_key(read_key(key_record("late", private_key).SerializeToString()), 11)
        now += waited
        with pytest.raises(StopIteration if admitted else Refusal) as ended:
            flow.send(None)
        assert not isinstance(ended.value, Refusal) or ended.value.reason is Reason.MESH_STALE


def test_a_credential_of_one_history_is_refused_in_the_next() -> None:
    """Its epoch may be above all epochs of the next history, whose revisions begin again at the backup's."""
    bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
    record = key_record("k", Ed25519PrivateKey.generate()).SerializeToString()
    bundle.load(Snapshot({LAYOUT.key("k"): KeyValue(record, 2, 2, 0)}, 100))
    verifier = Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10)
    caller = Caller("alice", "app", "s", frozenset(), frozenset({"probe"}), 2e9, 99)
    known = VerifiedCredential(
        caller, "token", kid="k", usable_until=2e9, session_ends_at=0.0, bundle_version=bundle.version
    )
    verifier.recheck(known, force=True)
    bundle.monitor.loss = "a part of it"
    bundle.monitor.begin_history(replace(NOTHING_OBSERVED, revision=50))
    with pytest.raises(Refusal) as refused:
        verifier.recheck(known, force=True)
    assert refused.value.reason is Reason.CREDENTIAL_REVOKED


def test_a_strict_method_checks_that_etcd_has_reached_a_claimed_epoch() -> None:
    bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
    private_key = Ed25519PrivateKey.generate()
    record = key_record("k", private_key).SerializeToString()
    history = mesh_pb2.History(format=1, history_id="h").SerializeToString()
    values = {LAYOUT.key("k"): KeyValue(record, 2, 2, 0), LAYOUT.history: KeyValue(history, 3, 3, 0)}
    bundle.load(Snapshot(values, 10))
    bundle.add_proof(Beacon(3), 100.0)
    verifier = Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10, clock=lambda: 100.5)
    token = jwt.encode(claims(epoch=20), private_key, algorithm="EdDSA", headers={"kid": "k", "typ": "at+jwt"})
    plain = replace(STRICT, freshness=None)
    with pytest.raises(StopIteration):
        next(verifier.verify(plain, token, time.time()))
    assert bundle.monitor.highest_unseen_epoch() == 20
    # The credential is cached now. A plain method uses the cache; a strict one verifies it again.
    assert verifier.verify_cached(plain, token, time.time()) is not None
    assert verifier.verify_cached(STRICT, token, time.time()) is None
    flow = verifier.verify(STRICT, token, time.time())
    assert next(flow) == NeedRevision(20)
    with pytest.raises(Refusal) as refused:
        flow.send(None)
    assert refused.value.reason is Reason.MESH_STALE
    flow = verifier.verify(STRICT, token, time.time())
    next(flow)
    bundle.monitor.record_watched(20)
    with pytest.raises(StopIteration):
        flow.send(None)
