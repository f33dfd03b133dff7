"""Verification without a network: a verifier with a key, metadata for it, and the CPU time of the thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.environment import ISSUER, TokenFactory
from interceptors.etcd.client import KeyValue, Snapshot
from interceptors.keyspace import Layout
from interceptors.policy import MethodRule
from interceptors.trust.bundle import TrustBundle
from interceptors.verification.verifier import Verifier

__all__ = ["Metadata", "bearer_metadata", "bundle_with_key", "cpu_microseconds_each", "make_verifier", "verify_new"]

Metadata = tuple[tuple[str, str], ...]


def bundle_with_key(tokens: TokenFactory) -> TrustBundle:
    """A trust bundle with one key and no epochs."""
    layout = Layout()
    bundle = TrustBundle(layout, ISSUER)
    record = tokens.record().SerializeToString()
    bundle.load(Snapshot({layout.key(tokens.kid): KeyValue(record, 1, 1, 0)}, 1))
    tokens.epoch = 1
    return bundle


def make_verifier(bundle: TrustBundle, *, cached: int) -> Verifier:
    """A verifier with a node's default settings and a cache of `cached` credentials."""
    return Verifier(bundle, leeway=5.0, max_credential_bytes=4096, cached_credentials=cached)


def bearer_metadata(token: str) -> Metadata:
    """The metadata of a call that presents a token."""
    return (("authorization", f"Bearer {token}"),)


def verify_new(verifier: Verifier, rule: MethodRule, metadata: Metadata) -> None:
    """Verifies a token that is not in the cache, as a server does for a call: signature, claims, epochs and rule."""
    now = time.time()
    credential = verifier.read_credential(metadata)
    assert verifier.verify_cached(rule, credential, now) is None, "the token was in the cache"
    flow = verifier.verify(rule, credential, now)
    try:
        next(flow)
    except StopIteration:
        return
    raise AssertionError("the verifier needs a key or a session that it does not have")


def cpu_microseconds_each(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """CPU microseconds of this thread for one item. Other threads and processes do not count."""
    started_at = time.thread_time()
    for item in items:
        work(item)
    return (time.thread_time() - started_at) / len(items) * 1e6
