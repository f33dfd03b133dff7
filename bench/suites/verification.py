"""Verification by itself, without a network: what a token costs beyond the signature that nobody can save."""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from bench.results.statistics import Row, alone, compare, interleave
from bench.run import Run
from bench.shop import AUDIENCE, RULE
from bench.verifying import Metadata, known_keys, metadata_of, microseconds, verifier_of, verify_new
from bench.world import ISSUER, Tokens

__all__ = ["verification"]

_TOKENS: Final = 200
_TARGET: Final = 1.25


def verification(run: Run) -> list[Row]:
    """Rows per algorithm: a token that is seen for the first time, and one that was verified before."""
    rounds = run.scale.rounds
    times = {"EdDSA": run.scale.targeted, "ES256": rounds, "RS256": rounds}
    tick = run.begin("verification", 4 * sum(times.values()))
    rows: list[Row] = []
    for algorithm in times:
        rows += _rows(algorithm, times[algorithm], tick)
    return rows


def _rows(algorithm: str, rounds: int, tick: Callable[[], None]) -> list[Row]:
    tokens = Tokens(algorithm=algorithm)
    # Its cache is full after the first rounds, as a node's is after its first minutes: what comes in, something leaves.
    verifier = verifier_of(known_keys(tokens), cached=2 * _TOKENS)
    warm = metadata_of(tokens.make())
    verify_new(verifier, RULE, warm)

    def first(metadata: Metadata) -> None:
        verify_new(verifier, RULE, metadata)

    samples = interleave(
        {
            "ours": lambda: microseconds(first, [metadata_of(text) for text in _texts(tokens)]),
            "bare": lambda: microseconds(_bare_check(tokens), _parts(tokens)),
            "PyJWT": lambda: microseconds(_by_hand(tokens), _texts(tokens)),
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


def _parts(tokens: Tokens) -> list[tuple[bytes, bytes]]:
    """New tokens as signature and message, decoded already."""
    split = [token.rpartition(".") for token in _texts(tokens)]
    return [(urlsafe_b64decode(signature + "=="), message.encode()) for message, _, signature in split]


def _texts(tokens: Tokens) -> list[str]:
    # A signature of RSA takes two milliseconds, and is not what is measured.
    return [tokens.make() for _ in range(_TOKENS if tokens.algorithm != "RS256" else _TOKENS // 5)]


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
