"""The rules of refresh tokens, without etcd: the verdict on each token after any history of its session."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.sessions.grants import Grant
from authsvc.sessions.refresh_tokens import (
    FAMILY_BYTES,
    MAX_USED_TOKENS,
    Current,
    Forged,
    Retried,
    Reused,
    SessionEnd,
    Verdict,
    evaluate_session,
    family_digest,
    judge_refresh_token,
    record_after_refresh,
    successor_secret,
)
from authsvc.store.timestamps import seconds, stamp
from credmesh.store.v1 import auth_pb2

GRACE = 10.0
IDLE = 1800.0
LIFETIME = 86_400.0
START = 1_700_000_000.0
ALICE = Grant(scopes=("shop.buy", "shop.read"), audiences=("inventory", "storefront"))


@dataclass
class History:
    """A session, all secrets that it has issued, and when each was used."""

    now: float = START
    held: list[bytes] = field(default_factory=lambda: [secrets.token_bytes(32)])
    used_at: list[float] = field(default_factory=list)
    record: auth_pb2.SessionRecord = field(init=False)

    def __post_init__(self) -> None:
        self.record = auth_pb2.SessionRecord(
            format=1,
            session_id="s",
            subject="alice",
            client_id="password",
            kind=auth_pb2.SessionRecord.KIND_TOKENS,
            scopes=ALICE.scopes,
            audiences=ALICE.audiences,
            epoch=100,
            created_at=stamp(self.now),
            last_seen_at=stamp(self.now),
            idle_expires_at=stamp(self.now + IDLE),
            expires_at=stamp(self.now + LIFETIME),
            secret_sha256=hashlib.sha256(self.held[0]).digest(),
            family_sha256=family_digest(self.held[0]),
        )

    def judge_refresh_token(self, secret: bytes) -> Verdict:
        return judge_refresh_token(self.record, secret, now=self.now, grace=GRACE)

    def refresh(self, *, epoch: int = 200, holder: Grant = ALICE) -> None:
        current = self.held[-1]
        self.held.append(successor_secret(current, secrets.token_bytes(32)))
        self.used_at.append(self.now)
        self.record = record_after_refresh(
            self.record,
            current,
            self.held[-1],
            now=self.now,
            grace=GRACE,
            idle=IDLE,
            epoch=epoch,
            granted=holder,
            nonce=secrets.token_bytes(12),
        )


# Pauses before each refresh: shorter than the grace window of 10 s, longer, and equal.
_pauses = st.lists(st.sampled_from([0.0, 0.5, 4.0, 9.75, 10.0, 11.0, 400.0]), max_size=12)


@settings(deadline=None)
@given(pauses=_pauses, later=st.sampled_from([0.0, 3.0, 9.75, 10.0, 60.0]))
def test_after_any_history_each_token_gets_the_verdict_of_the_rules(pauses: list[float], later: float) -> None:
    history = History()
    for pause in pauses:
        history.now += pause
        history.refresh()
    history.now += later
    assert history.judge_refresh_token(history.held[-1]) == Current()
    for secret, used_at in zip(history.held, history.used_at, strict=False):
        if history.now < used_at + GRACE:
            assert history.judge_refresh_token(secret) == Retried(history.held[-1])
        else:
            assert history.judge_refresh_token(secret) == Reused()


@settings(deadline=None)
@given(pauses=_pauses, guess=st.binary(min_size=32, max_size=32))
def test_a_caller_who_never_had_a_token_of_the_session_cannot_end_it(pauses: list[float], guess: bytes) -> None:
    history = History()
    for pause in pauses:
        history.now += pause
        history.refresh()
    assert history.judge_refresh_token(guess) == Forged()


@settings(deadline=None)
@given(pauses=_pauses)
def test_no_record_contains_a_secret(pauses: list[float]) -> None:
    history = History()
    for pause in pauses:
        history.now += pause
        history.refresh()
    stored = history.record.SerializeToString()
    for secret in history.held:
        assert secret not in stored
        assert secret[:FAMILY_BYTES] not in stored
        assert secret[FAMILY_BYTES:] not in stored


def test_no_two_tokens_of_a_session_are_equal() -> None:
    history = History()
    for _ in range(20):
        history.refresh()
    fresh = {secret[FAMILY_BYTES:] for secret in history.held}
    assert len(fresh) == len(history.held)
    assert all(len(secret) == 32 for secret in history.held)


def test_a_record_keeps_only_tokens_of_the_grace_window() -> None:
    """Otherwise the record would grow with every refresh."""
    history = History()
    for _ in range(50):
        history.now += 300
        history.refresh()
    assert len(history.record.used) == 1


def test_a_record_stays_bounded_under_many_refreshes() -> None:
    history = History()
    for _ in range(3 * MAX_USED_TOKENS):
        history.refresh()
    assert len(history.record.used) == MAX_USED_TOKENS
    assert history.judge_refresh_token(history.held[-MAX_USED_TOKENS - 1]) == Retried(history.held[-1])
    assert history.judge_refresh_token(history.held[-MAX_USED_TOKENS - 2]) == Reused()


def test_without_a_grace_window_every_second_use_is_reuse() -> None:
    history = History()
    history.refresh()
    assert judge_refresh_token(history.record, history.held[0], now=history.now, grace=0.0) == Reused()


def test_a_successor_sealed_for_another_session_does_not_open() -> None:
    """A writer to etcd must not be able to have one session's retry answered with another session's token."""
    history = History()
    history.refresh()
    history.record.session_id = "another"
    assert history.judge_refresh_token(history.held[0]) == Reused()


def test_an_altered_sealed_successor_ends_the_session() -> None:
    history = History()
    history.refresh()
    sealed = bytearray(history.record.used[0].sealed_successor)
    sealed[-1] ^= 1
    history.record.used[0].sealed_successor = bytes(sealed)
    assert history.judge_refresh_token(history.held[0]) == Reused()
    history.record.used[0].sealed_successor = b""
    assert history.judge_refresh_token(history.held[0]) == Reused()


def test_an_opaque_session_has_no_refresh_token() -> None:
    history = History()
    history.record.kind = auth_pb2.SessionRecord.KIND_OPAQUE
    assert history.judge_refresh_token(history.held[0]) == Forged()


def test_a_refresh_changes_only_its_own_fields_of_the_record() -> None:
    history = History()
    before = auth_pb2.SessionRecord()
    before.CopyFrom(history.record)
    history.now += 100
    history.refresh(epoch=321, holder=Grant(("shop.read",), ("storefront",)))
    after = history.record
    assert after.epoch == 321
    assert list(after.scopes) == ["shop.read"]
    assert list(after.audiences) == ["storefront"]
    assert seconds(after.last_seen_at) == START + 100
    assert seconds(after.idle_expires_at) == START + 100 + IDLE
    for name in ("session_id", "subject", "client_id", "kind", "created_at", "expires_at", "family_sha256"):
        assert getattr(after, name) == getattr(before, name)


def test_use_does_not_prolong_a_session_beyond_its_lifetime() -> None:
    history = History()
    history.now = START + LIFETIME - 60
    history.refresh()
    assert seconds(history.record.idle_expires_at) == START + LIFETIME


@settings(deadline=None)
@given(at=st.floats(0, 2 * LIFETIME), idle=st.floats(1, 2 * LIFETIME))
def test_a_session_ends_exactly_when_it_times_out(at: float, idle: float) -> None:
    record = History().record
    record.idle_expires_at.CopyFrom(stamp(START + idle))
    found = evaluate_session(record, now=START + at, epochs={}, account=ALICE)
    over = START + at >= min(seconds(record.idle_expires_at), seconds(record.expires_at))
    assert (found == ALICE) == (not over)
    assert found == ALICE or (isinstance(found, SessionEnd) and found.expired)


@pytest.mark.parametrize("scope", ["all", "sub/alice", "sid/s", "client/password", "aud/storefront"])
def test_a_session_ends_with_the_revocation_of_any_of_its_scopes(scope: str) -> None:
    record = History().record
    epochs = dict.fromkeys(["all", "sub/alice", "sid/s", "client/password", "aud/storefront"], record.epoch)
    assert evaluate_session(record, now=START, epochs=epochs, account=ALICE) == ALICE
    epochs[scope] = record.epoch + 1
    found = evaluate_session(record, now=START, epochs=epochs, account=ALICE)
    assert isinstance(found, SessionEnd)
    assert not found.expired
    assert scope in found.why


def test_a_session_ends_with_its_account() -> None:
    record = History().record
    assert isinstance(evaluate_session(record, now=START, epochs={}, account=None), SessionEnd)
    assert isinstance(
        evaluate_session(record, now=START, epochs={}, account=Grant(ALICE.scopes, ("elsewhere",))), SessionEnd
    )


def test_a_session_is_narrowed_with_its_account() -> None:
    record = History().record
    holder = Grant(("shop.read", "shop.admin"), ("storefront", "orders"))
    assert evaluate_session(record, now=START, epochs={}, account=holder) == Grant(("shop.read",), ("storefront",))
    assert evaluate_session(record, now=START, epochs={}, account=Grant((), ("storefront",))) == Grant(
        (), ("storefront",)
    )


def test_a_verdict_never_shows_a_secret() -> None:
    assert "secret" not in repr(Retried(b"secret"))
