"""Epochs are stored packed, and behave like a dict."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from interceptors.scopes import EVERYONE, session_scope, subject_scope
from interceptors.trust.epochs import Epochs

# Names that contain each other, or characters that percent-encoding has to escape.
NAMES = st.sampled_from(["a", "ab", "aa", "b", "a b", "a\tb", "a\n", "ü", "%", "", "sid/a", "x" * 300])
SCOPES = st.one_of(st.just(EVERYONE), NAMES.map(subject_scope), NAMES.map(session_scope))
CHANGES = st.lists(st.tuples(SCOPES, st.one_of(st.none(), st.integers(1, 1 << 62))))


@given(CHANGES, SCOPES, st.integers(0, 1 << 62))
def test_epochs_behave_like_a_dict(changes: list[tuple[str, int | None]], asked: str, epoch: int) -> None:
    epochs, model = Epochs(), dict[str, int]()
    for scope, revision in changes:
        if revision is None:
            epochs.drop(scope)
            model.pop(scope, None)
        else:
            epochs.put(scope, revision)
            model[scope] = revision
    assert dict(epochs) == model
    assert len(epochs) == len(model)
    assert epochs.find_revoked_scope([asked], epoch) == (asked if model.get(asked, 0) > epoch else None)


@given(CHANGES)
def test_epochs_from_a_snapshot_equal_epochs_put_one_by_one(changes: list[tuple[str, int | None]]) -> None:
    model = {scope: revision for scope, revision in changes if revision is not None}
    assert dict(Epochs(model.items())) == model


def test_scopes_of_one_bucket_do_not_hide_each_other() -> None:
    """There are more scopes than buckets, so every bucket holds several."""
    scopes = [subject_scope(f"user-{number}") for number in range(200_000)]
    epochs = Epochs((scope, revision) for revision, scope in enumerate(scopes, start=1))
    for revision, scope in enumerate(scopes[:2000], start=1):
        assert epochs.find_revoked_scope([scope], revision - 1) == scope
        assert epochs.find_revoked_scope([scope], revision) is None
    for scope in scopes[1:2000:2]:
        epochs.drop(scope)
    assert [epochs.find_revoked_scope([scope], 0) for scope in scopes[:2000]] == [
        None if number % 2 else scope for number, scope in enumerate(scopes[:2000])
    ]


def test_an_etcd_key_that_is_not_a_valid_scope_revokes_nothing() -> None:
    """An attacker who can write to etcd might try to write two epochs into one key."""
    epochs = Epochs([("sub/alice\t9\nsub/bob", 9), ("sub/carol\n", 9), ("sub/carol\t9", 9)])
    assert epochs.find_revoked_scope(["sub/alice", "sub/bob", "sub/carol"], 0) is None
    assert len(epochs) == 0


def test_a_live_epoch_takes_little_more_than_its_text() -> None:
    scopes = [session_scope(f"{number:022}") for number in range(200_000)]
    epochs = Epochs((scope, 1_000_000) for scope in scopes)
    buckets = epochs._buckets
    held = sys.getsizeof(buckets) + sum(sys.getsizeof(at) + sys.getsizeof(text) for at, text in buckets.items())
    assert held / len(epochs) < 90
