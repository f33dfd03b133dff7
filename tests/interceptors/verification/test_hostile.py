"""Hostile tokens: whatever their headers and claims say, they are refused with a reason, and crash nobody."""

from __future__ import annotations

import json
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
from tests.interceptors.tokens.test_access_token import PRIVATE, b64, sign
from tests.support.probe.issuer import ISSUER, claims, key_record

LAYOUT = Layout("/credmesh/")
RULE = MethodRule("/m", audience="probe", freshness=5.0)

# JSON can write half of a surrogate pair, which Python reads, and which no encoding can write again.
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
    """A token of somebody who has no key."""
    return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims()).encode())}.{b64(bytes(64))}"


def ask_for(flow: VerificationFlow) -> None:
    """Drives a flow that may ask for a key, which is not there."""
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
def test_no_header_crashes_a_verification_or_what_it_asks_for(header: Any) -> None:
    flow = verifier().flow(RULE, unsigned(header), time.time())
    with pytest.raises(Refusal):
        ask_for(flow)


@settings(max_examples=300, deadline=None)
@example("sub", "\ud800")
@example("sid", "\udfff")
@example("aud", ["\ud800"])
@given(st.sampled_from(sorted(claims(act={"sub": "robot"}))), JSON)
def test_no_claim_crashes_a_verification_even_of_who_has_a_key(name: str, value: Any) -> None:
    flow = verifier().identify(sign(claims(**{name: value})), time.time())
    with pytest.raises((Refusal, StopIteration)) as caught:  # some are as good as any
        next(flow)
    if isinstance(caught.value, Refusal):
        assert caught.value.status is Reason.CREDENTIAL_INVALID.status


@pytest.fixture
def node(etcd_settings: EtcdSettings, etcd_client: EtcdClient) -> Iterator[MeshNode]:
    with MeshNode(MeshSettings(etcd=etcd_settings, service="probe", issuer=ISSUER)) as node:
        # Otherwise most of what is made up is turned away before it is asked for.
        node.asker._may_ask_for_key = lambda: True  # type: ignore[method-assign]
        yield node


def test_no_header_crashes_a_node(node: MeshNode, caplog: pytest.LogCaptureFixture) -> None:
    @settings(max_examples=100, deadline=None)
    @example({**HEADER, "kid": "\ud800"})
    @given(HEADERS)
    def refused(header: Any) -> None:
        with pytest.raises(Refusal) as caught:
            node.verify(unsigned(header))
        # Nothing that says that the fault is ours.
        assert caught.value.status is Reason.CREDENTIAL_INVALID.status

    refused()
    assert not [record for record in caplog.records if record.exc_info]
