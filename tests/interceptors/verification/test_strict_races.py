"""What a strict call was checked against is at least as fresh as what it is judged by."""

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
METADATA = (("authorization", "Bearer token"),)


class Overtaken(TrustBundle):
    """A bundle to which something happens right after a call has looked at its generation, and so at its epochs."""

    happens: Callable[[], None] | None = None

    @property
    def generation(self) -> int:
        now, happens = self._generation, self.happens
        if happens is not None:
            self.happens = None
            happens()
        return now

    @generation.setter
    def generation(self, value: int) -> None:
        self._generation = value


@pytest.fixture
def bundle() -> Overtaken:
    bundle = Overtaken(LAYOUT, ISSUER, clock=lambda: 0.0)
    record = key_record("k", Ed25519PrivateKey.generate()).SerializeToString()
    bundle.load(Snapshot({LAYOUT.key("k"): KeyValue(record, 2, 2, 0)}, 10))
    return bundle


def test_a_proof_that_comes_in_between_does_not_vouch_for_epochs_that_were_not_looked_at(bundle: Overtaken) -> None:
    """A node that was cut off catches up in the very middle of a call: the revocation, then the proof of freshness."""
    now = 101.0
    verifier = Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10, clock=lambda: now)
    caller = Caller("alice", "app", None, frozenset(), frozenset({"probe"}), 2e9, 10)
    known = VerifiedCredential(
        caller, "token", kid="k", usable_until=2e9, session_ends_at=0.0, generation=bundle.generation
    )
    verifier._cache.put("token", known)
    bundle.prove(Beacon(10), 100.0)
    assert verifier.check(STRICT, METADATA, now=1e9) is known

    def catch_up() -> None:
        bundle.apply([Event(LAYOUT.epoch(subject_scope("alice")), b"", 11)], 11)
        bundle.prove(Beacon(11), 199.0)

    now, bundle.happens = 200.0, catch_up
    with pytest.raises(Refusal) as refused:
        verifier.check(STRICT, METADATA, now=1e9)
    assert refused.value.reason in (Reason.MESH_STALE, Reason.CREDENTIAL_REVOKED)


def test_how_fresh_a_node_is_counts_where_the_call_is_let_in_not_where_it_came_in() -> None:
    """A flow may wait for a key for seconds, or the process be paused: the proof grows old meanwhile."""
    bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
    bundle.load(Snapshot({}, 10))
    bundle.prove(Beacon(10), 100.0)
    now = 101.0
    verifier = Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10, clock=lambda: now)
    private_key = Ed25519PrivateKey.generate()
    token = jwt.encode(claims(), private_key, algorithm="EdDSA", headers={"kid": "late", "typ": "at+jwt"})
    for waited, let_in in ((1.0, True), (3.0, False)):
        bundle.load(Snapshot({}, 10))
        verifier.forget()
        now = 101.0
        flow = verifier.flow(STRICT, token, time.time())
        assert next(flow) == NeedKey("late")
        bundle.add_key(read_key(key_record("late", private_key).SerializeToString()), 11)
        now += waited
        with pytest.raises(StopIteration if let_in else Refusal) as ended:
            flow.send(None)
        assert not isinstance(ended.value, Refusal) or ended.value.reason is Reason.MESH_STALE


def test_nothing_that_was_accepted_in_one_history_counts_in_the_next() -> None:
    """Its epoch may well be above everyone's in the next: revisions begin again from where the backup was."""
    bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
    record = key_record("k", Ed25519PrivateKey.generate()).SerializeToString()
    bundle.load(Snapshot({LAYOUT.key("k"): KeyValue(record, 2, 2, 0)}, 100))
    verifier = Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10)
    caller = Caller("alice", "app", "s", frozenset(), frozenset({"probe"}), 2e9, 99)
    known = VerifiedCredential(
        caller, "token", kid="k", usable_until=2e9, session_ends_at=0.0, generation=bundle.generation
    )
    verifier.recheck(known, force=True)
    bundle.continuity.lost = "a part of it"
    bundle.continuity.begin_history(replace(NOTHING_OBSERVED, revision=50))
    with pytest.raises(Refusal) as refused:
        verifier.recheck(known, force=True)
    assert refused.value.reason is Reason.CREDENTIAL_REVOKED


def test_a_strict_method_asks_whether_etcd_has_reached_what_a_credential_claims() -> None:
    bundle = TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)
    private_key = Ed25519PrivateKey.generate()
    record = key_record("k", private_key).SerializeToString()
    history = mesh_pb2.History(format=1, history_id="h").SerializeToString()
    values = {LAYOUT.key("k"): KeyValue(record, 2, 2, 0), LAYOUT.history: KeyValue(history, 3, 3, 0)}
    bundle.load(Snapshot(values, 10))
    bundle.prove(Beacon(3), 100.0)
    verifier = Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10, clock=lambda: 100.5)
    token = jwt.encode(claims(epoch=20), private_key, algorithm="EdDSA", headers={"kid": "k", "typ": "at+jwt"})
    plain = replace(STRICT, freshness=None)
    with pytest.raises(StopIteration):
        next(verifier.flow(plain, token, time.time()))
    assert bundle.continuity.highest_unseen_epoch() == 20
    metadata = (("authorization", f"Bearer {token}"),)
    # It is cached by now, and a plain method serves it; a strict one goes the long way all the same.
    assert verifier.check(plain, metadata, time.time()) is not token
    assert verifier.check(STRICT, metadata, time.time()) == token
    flow = verifier.flow(STRICT, token, time.time())
    assert next(flow) == NeedRevision(20)
    with pytest.raises(Refusal) as refused:
        flow.send(None)
    assert refused.value.reason is Reason.MESH_STALE
    flow = verifier.flow(STRICT, token, time.time())
    next(flow)
    bundle.continuity.record_watched(20)
    with pytest.raises(StopIteration):
        flow.send(None)
