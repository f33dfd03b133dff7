"""Hostile tokens are refused with a reason, whatever their headers and claims, and crash nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interceptors import EtcdSettings, MeshNode, MeshSettings, Reason, Refusal
from interceptors.etcd.client import EtcdClient, KeyValue, Snapshot
from interceptors.keyspace import Layout
from interceptors.policy import MethodRule
from interceptors.trust.bundle import TrustBundle
from interceptors.verification.verifier import NeedKey, VerificationFlow, Verifier
from localmesh.forged_tokens import compact_jws
from tests.interceptors.tokens.test_access_token import PRIVATE, sign
from tests.support.probe.issuer import ISSUER, claims, key_record

LAYOUT = Layout("/credmesh/")
RULE = MethodRule("/m", audience="probe", freshness=5.0)

# JSON can express a lone surrogate, which Python reads, and which no encoding can write.
TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
HEADER: dict[str, Any] = {"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}
HEADERS = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {
            "alg": st.sampled_from(["EdDSA", "none", "HS256"]) | TEXT,
            "kid": st.sampled_from(["k1", "k2", ""]) | TEXT,
            "typ": st.sampled_from(["at+jwt", "JWT"]) | TEXT,
        }
    ),
    st.builds(lambda name, value: {**HEADER, name: value}, st.sampled_from([*HEADER, "jku", "crit"]), JSON),
)


def unsigned(header: Any) -> str:
    """A token whose signature is of no key."""
    return compact_jws(header, claims(), bytes(64))


def drive(flow: VerificationFlow) -> None:
    """Drives a verification that may need a key, which etcd does not have."""
    need = next(flow)
    assert isinstance(need, NeedKey)
    assert LAYOUT.key(need.kid).isascii()
    flow.send(None)


def verifier() -> Verifier:
    bundle = TrustBundle(LAYOUT, ISSUER)
    record = key_record("k1", PRIVATE).SerializeToString()
    bundle.load(Snapshot({LAYOUT.key("k1"): KeyValue(record, 2, 2, 0)}, 10))
    return Verifier(bundle, leeway=5, max_credential_bytes=4096, cached_credentials=10)


@settings(max_examples=300, deadline=None)
@example({**HEADER, "kid": "\ud800"})
@given(HEADERS)
def test_no_header_crashes_a_verification_or_a_lookup(header: Any) -> None:
    flow = verifier().verify(RULE, unsigned(header), time.time())
    with pytest.raises(Refusal):
        drive(flow)


@settings(max_examples=300, deadline=None)
@example("sub", "\ud800")
@example("sid", "\udfff")
@example("aud", ["\ud800"])
@given(st.sampled_from(sorted(claims(act={"sub": "robot"}))), JSON)
def test_no_signed_claim_crashes_a_verification(name: str, value: Any) -> None:
    flow = verifier().authenticate(sign(claims(**{name: value})), time.time())
    with pytest.raises((Refusal, StopIteration)) as caught:  # StopIteration: some values are valid
        next(flow)
    if isinstance(caught.value, Refusal):
        assert caught.value.status is Reason.CREDENTIAL_INVALID.status


@pytest.fixture
def node(etcd_settings: EtcdSettings, etcd_client: EtcdClient) -> Iterator[MeshNode]:
    with MeshNode(MeshSettings(etcd=etcd_settings, service="probe", issuer=ISSUER)) as node:
        # With the rate limit most invented kids would not be looked up.
        node.lookups._take_key_lookup_allowance = lambda: True  # type: ignore[method-assign]
        yield node


def test_no_header_crashes_a_node(node: MeshNode, caplog: pytest.LogCaptureFixture) -> None:
    @settings(max_examples=100, deadline=None)
    @example({**HEADER, "kid": "\ud800"})
    @given(HEADERS)
    def refused(header: Any) -> None:
        with pytest.raises(Refusal) as caught:
            node.verify(unsigned(header))
        # And not MESH_STALE, which an unexpected error would give.
        assert caught.value.status is Reason.CREDENTIAL_INVALID.status

    refused()
    assert not [record for record in caplog.records if record.exc_info]
