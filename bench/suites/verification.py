"""Verification without a network: the cost of a token, compared with the bare signature check."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from bench.environment import ISSUER, TokenFactory
from bench.results.statistics import Row, comparison_row, interleave, single_row
from bench.shop import AUDIENCE, RULE
from bench.suite import SuiteContext
from bench.verifying import Metadata, bearer_metadata, bundle_with_key, cpu_microseconds_each, make_verifier, verify_new
from interceptors.tokens import base64url

__all__ = ["verification"]

_TOKENS: Final = 200
_TARGET: Final = 1.25


def verification(context: SuiteContext) -> list[Row]:
    """Rows for each algorithm: a new token, PyJWT, and a token in the cache."""
    rounds = context.scale.rounds
    rounds_by_algorithm = {"EdDSA": context.scale.targeted, "ES256": rounds, "RS256": rounds}
    tick = context.begin_progress("verification", 4 * sum(rounds_by_algorithm.values()))
    rows: list[Row] = []
    for algorithm in rounds_by_algorithm:
        rows += _rows(algorithm, rounds_by_algorithm[algorithm], tick)
    return rows


def _rows(algorithm: str, rounds: int, tick: Callable[[], None]) -> list[Row]:
    tokens = TokenFactory(algorithm=algorithm)
    # The cache is full after the first rounds, as a node's is after some minutes. Then each new token evicts another.
    verifier = make_verifier(bundle_with_key(tokens), cached=2 * _TOKENS)
    warm = bearer_metadata(tokens.make())
    verify_new(verifier, RULE, warm)

    def verify_first(metadata: Metadata) -> None:
        verify_new(verifier, RULE, metadata)

    def verify_again(metadata: Metadata) -> None:
        verifier.verify_cached(RULE, verifier.read_credential(metadata), time.time())

    samples = interleave(
        {
            "ours": lambda: cpu_microseconds_each(verify_first, [bearer_metadata(text) for text in _new_texts(tokens)]),
            "bare": lambda: cpu_microseconds_each(_bare_check(tokens), _new_signatures(tokens)),
            "PyJWT": lambda: cpu_microseconds_each(_pyjwt_check(tokens), _new_texts(tokens)),
            "warm": lambda: cpu_microseconds_each(verify_again, [warm] * (50 * _TOKENS)),
        },
        rounds,
        tick=tick,
    )
    peer = f"the bare {'Ed25519' if algorithm == 'EdDSA' else algorithm} check"

    def row(name: str, variant: str, target: float | None = None) -> Row:
        figures, bare = samples[variant], samples["bare"]
        return comparison_row("verification", f"{name} ÷ {peer}", figures, bare, unit="µs", higher=False, target=target)

    rows = [
        row("first verification", "ours", _TARGET if algorithm == "EdDSA" else None),
        row("PyJWT's decode", "PyJWT"),
    ]
    if algorithm == "EdDSA":
        rows.append(single_row("verification", "verification from the cache", samples["warm"], unit="µs", higher=False))
    return rows


def _new_signatures(tokens: TokenFactory) -> list[tuple[bytes, bytes]]:
    """The decoded signatures and the signed bytes of new tokens."""
    split = [token.rpartition(".") for token in _new_texts(tokens)]
    return [(base64url.decode(signature), message.encode()) for message, _, signature in split]


def _new_texts(tokens: TokenFactory) -> list[str]:
    # Signing with RSA takes two milliseconds and is not measured here, so fewer tokens save time.
    return [tokens.make() for _ in range(_TOKENS if tokens.algorithm != "RS256" else _TOKENS // 5)]


def _bare_check(tokens: TokenFactory) -> Callable[[tuple[bytes, bytes]], None]:
    key: Any = tokens.public_key
    if tokens.algorithm == "EdDSA":
        return lambda parts: key.verify(*parts)
    if tokens.algorithm == "RS256":
        padding, sha256 = PKCS1v15(), SHA256()
        return lambda parts: key.verify(*parts, padding, sha256)
    ecdsa = ECDSA(SHA256())

    def check(parts: tuple[bytes, bytes]) -> None:
        raw, message = parts
        # JWS concatenates r and s (RFC 7518 section 3.4); OpenSSL needs them in DER.
        key.verify(encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:])), message, ecdsa)

    return check


def _pyjwt_check(tokens: TokenFactory) -> Callable[[str], object]:
    key: Any = tokens.public_key
    return lambda text: jwt.decode(text, key, algorithms=[tokens.algorithm], audience=AUDIENCE, issuer=ISSUER)
