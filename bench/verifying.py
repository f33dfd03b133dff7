"""Verification by itself: a verifier with its keys, tokens for it, and the thread's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.world import ISSUER, Tokens
from interceptors.etcd.client import KeyValue, Snapshot
from interceptors.keyspace import Layout
from interceptors.policy import MethodRule
from interceptors.trust.bundle import TrustBundle
from interceptors.verification.verifier import Verifier

__all__ = ["Metadata", "known_keys", "metadata_of", "microseconds", "verifier_of", "verify_new"]

Metadata = tuple[tuple[str, str], ...]


def known_keys(tokens: Tokens) -> TrustBundle:
    """A bundle that knows one key and no epoch."""
    layout = Layout()
    bundle = TrustBundle(layout, ISSUER)
    record = tokens.record().SerializeToString()
    bundle.load(Snapshot({layout.key(tokens.kid): KeyValue(record, 1, 1, 0)}, 1))
    tokens.epoch = 1
    return bundle


def verifier_of(bundle: TrustBundle, *, cached: int) -> Verifier:
    """A verifier with a node's own defaults, but for how many credentials it keeps."""
    return Verifier(bundle, leeway=5.0, max_credential_bytes=4096, cached_credentials=cached)


def metadata_of(token: str) -> Metadata:
    """The metadata of a call that presents a token."""
    return (("authorization", f"Bearer {token}"),)


def verify_new(verifier: Verifier, rule: MethodRule, metadata: Metadata) -> None:
    """All that a server does for a call whose token is new to it: signature, claims, epochs, rule."""
    now = time.time()
    credential = verifier.check(rule, metadata, now)
    assert isinstance(credential, str), "the token was known"
    flow = verifier.flow(rule, credential, now)
    try:
        next(flow)
    except StopIteration:
        return
    raise AssertionError("the key was unknown")


def microseconds(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """CPU microseconds that the work takes for one item: this thread's own, so that others on the core do not count."""
    begun = time.thread_time()
    for item in items:
        work(item)
    return (time.thread_time() - begun) / len(items) * 1e6
