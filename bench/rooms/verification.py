"""Verification by itself, without a network: what a token costs beyond the signature that nobody can save."""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Sequence
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from bench.method import Row, alone, compare, interleave
from bench.run import Run
from bench.shop import AUDIENCE, RULE
from bench.world import ISSUER, Tokens
from interceptors.bundle import TrustBundle
from interceptors.etcd.client import KeyValue, Snapshot
from interceptors.etcd.layout import Layout
from interceptors.verify import Verifier

__all__ = ["RULE", "NewTokens", "known_keys", "microseconds", "verification", "verifier_of"]

_TOKENS: Final = 200
_TARGET: Final = 1.25


def verification(run: Run) -> list[Row]:
    """Rows per algorithm: a token that is seen for the first time, and one that was verified before."""
    rounds = run.scale.rounds
    tick = run.begin("verification", 4 * (3 + 1 + 1) * rounds)
    rows: list[Row] = []
    for algorithm, times in (("EdDSA", 3), ("ES256", 1), ("RS256", 1)):
        rows += _rows(algorithm, times * rounds, tick)
    return rows


def _rows(algorithm: str, rounds: int, tick: Callable[[], None]) -> list[Row]:
    tokens = Tokens(algorithm=algorithm)
    # Its cache is full after the first rounds, as a node's is after its first minutes: what comes in, something leaves.
    verifier = verifier_of(known_keys(tokens), cached=4 * _TOKENS)
    fresh = NewTokens(tokens, verifier)
    warm = (("authorization", f"Bearer {tokens.make()}"),)
    fresh.verify(warm)
    samples = interleave(
        {
            "ours": lambda: microseconds(fresh.verify, fresh.metadata()),
            "bare": lambda: microseconds(_bare_check(tokens), fresh.parts()),
            "PyJWT": lambda: microseconds(_by_hand(tokens), fresh.texts()),
            "warm": lambda: microseconds(lambda _: verifier.check(RULE, warm, time.time()), range(50 * _TOKENS)),
        },
        rounds,
        tick=tick,
    )
    name_of = {"EdDSA": "Ed25519"}.get(algorithm, algorithm)
    bare = f"the bare {name_of} check"

    def row(name: str, ours: str, target: float | None = None) -> Row:
        group, mine = "verification", samples[ours]
        return compare(group, f"{name} ÷ {bare}", mine, samples["bare"], unit="µs", higher=False, target=target)

    rows = [
        row("first verification", "ours", _TARGET if algorithm == "EdDSA" else None),
        row("PyJWT's decode", "PyJWT"),
    ]
    if algorithm == "EdDSA":
        rows.append(alone("verification", "a token verified before", samples["warm"], unit="µs", higher=False))
    return rows


def microseconds(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """CPU microseconds that the work takes for one item: this thread's own, so that others on the core do not count."""
    begun = time.thread_time()
    for item in items:
        work(item)
    return (time.thread_time() - begun) / len(items) * 1e6


def known_keys(tokens: Tokens) -> TrustBundle:
    """A bundle that knows one key and no epoch."""
    layout = Layout()
    bundle = TrustBundle(layout, ISSUER)
    record = tokens.record().SerializeToString()
    bundle.load(Snapshot({layout.key(tokens.kid): KeyValue(record, 1, 1, 0)}, 1))
    tokens.epoch = 1
    return bundle


def verifier_of(bundle: TrustBundle, *, cached: int = 10_000) -> Verifier:
    """A verifier with a node's own defaults."""
    return Verifier(bundle, leeway=5.0, max_credential_bytes=4096, cached_credentials=cached)


class NewTokens:
    """Tokens that nobody has seen, in the forms in which the different readers want them."""

    def __init__(self, tokens: Tokens, verifier: Verifier) -> None:
        self._tokens = tokens
        self._verifier = verifier

    def verify(self, metadata: Sequence[tuple[str, str]]) -> None:
        """All that a server does for a call whose token is new to it: signature, claims, epochs, rule."""
        now = time.time()
        credential = self._verifier.check(RULE, metadata, now)
        assert isinstance(credential, str), "the token was known"
        flow = self._verifier.flow(RULE, credential, now)
        try:
            next(flow)
        except StopIteration:
            return
        raise AssertionError("the key was unknown")

    def texts(self) -> list[str]:
        """As they are."""
        return [self._tokens.make() for _ in range(_TOKENS)]

    def metadata(self) -> list[tuple[tuple[str, str]]]:
        """As a call's metadata."""
        return [(("authorization", f"Bearer {token}"),) for token in self.texts()]

    def parts(self) -> list[tuple[bytes, bytes]]:
        """As signature and message, decoded already."""
        split = [token.rpartition(".") for token in self.texts()]
        return [(urlsafe_b64decode(signature + "=="), message.encode()) for message, _, signature in split]


def _bare_check(tokens: Tokens) -> Callable[[tuple[bytes, bytes]], None]:
    key: Any = tokens.public_key
    if tokens.algorithm == "EdDSA":
        return lambda parts: key.verify(*parts)
    if tokens.algorithm == "RS256":
        padding, sha256 = PKCS1v15(), SHA256()
        return lambda parts: key.verify(*parts, padding, sha256)
    ecdsa = ECDSA(SHA256())

    def check(parts: tuple[bytes, bytes]) -> None:
        raw, message = parts
        # JWS has the two numbers side by side, and OpenSSL wants them in DER.
        key.verify(encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:])), message, ecdsa)

    return check


def _by_hand(tokens: Tokens) -> Callable[[str], object]:
    key: Any = tokens.public_key
    return lambda text: jwt.decode(text, key, algorithms=[tokens.algorithm], audience=AUDIENCE, issuer=ISSUER)
