"""The trust bundle: at any revision its contents equal those of etcd at that revision."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import KeyValue, Snapshot
from interceptors.etcd.mirror import Event
from interceptors.keyspace import Layout
from interceptors.scopes import subject_scope
from interceptors.tokens.verification_key import read_key
from interceptors.trust.bundle import TrustBundle
from interceptors.trust.continuity import Beacon
from interceptors.trust.continuity_monitor import MAX_SILENCE_SECONDS
from interceptors.trust.epochs import Epochs
from tests.support.probe.issuer import ISSUER, key_record

LAYOUT = Layout("/credmesh/")
RECORDS = {kid: key_record(kid, Ed25519PrivateKey.generate()).SerializeToString() for kid in ("k1", "k2", "k3")}

scopes = st.sampled_from(["all", "sub/alice", "sub/bob", "sid/1", "client/app", "aud/orders"])
keys = st.one_of(
    scopes.map(LAYOUT.epoch),
    st.sampled_from(sorted(RECORDS)).map(LAYOUT.key),
    st.just(LAYOUT.signing),
    st.just(LAYOUT.beacon),
    st.just(LAYOUT.barrier("b")),
)
changes = st.lists(st.tuples(keys, st.booleans()), max_size=40)


def value_of(key: str) -> bytes:
    return RECORDS.get(key.removeprefix(LAYOUT.keys), b"")


def bundle() -> TrustBundle:
    return TrustBundle(LAYOUT, ISSUER, clock=lambda: 0.0)


def snapshot_of(values: dict[str, int], revision: int) -> Snapshot:
    return Snapshot({key: KeyValue(value_of(key), at, at, 0) for key, at in values.items()}, revision)


@given(changes, st.integers(0, 40), st.lists(st.integers(1, 5), min_size=1))
def test_a_snapshot_plus_its_later_events_equals_a_later_snapshot(
    made: list[tuple[str, bool]], cut: int, batches: list[int]
) -> None:
    held: dict[str, int] = {}
    at_cut: dict[str, int] = {}
    events: list[Event] = []
    for revision, (key, deleted) in enumerate(made, start=2):
        if deleted:
            held.pop(key, None)
        else:
            held[key] = revision
        if revision - 2 < cut:
            at_cut = dict(held)
        else:
            events.append(Event(key, None if deleted else value_of(key), revision))
    last = len(made) + 1
    followed, read = bundle(), bundle()
    followed.load(snapshot_of(at_cut, min(cut, len(made)) + 1))
    sizes = iter(batches * (len(events) + 1))
    while events:
        size = next(sizes)
        batch, events = events[:size], events[size:]
        followed.apply(batch, batch[-1].mod_revision)
    read.load(snapshot_of(held, last))
    assert dict(followed.epochs) == dict(read.epochs)
    assert set(followed.keys) == set(read.keys)
    assert followed.revision == read.revision == last


@given(st.dictionaries(scopes, st.integers(1, 50)), st.lists(scopes), st.integers(0, 50))
def test_a_credential_is_revoked_exactly_if_a_scope_has_a_greater_epoch(
    revoked: dict[str, int], mine: list[str], epoch: int
) -> None:
    found = Epochs(revoked.items()).find_revoked_scope(mine, epoch)
    assert (found is not None) == any(revoked.get(scope, 0) > epoch for scope in mine)


def test_every_change_that_may_end_a_credential_increases_the_version() -> None:
    one = bundle()
    one.load(snapshot_of({LAYOUT.key("k1"): 2}, 2))
    version = one.version
    one.apply([Event(LAYOUT.beacon, b"", 3)], 3)
    assert one.version == version  # a beacon by itself changes nothing
    one.apply([Event(LAYOUT.epoch(subject_scope("alice")), b"", 4)], 4)
    assert one.version > version
    version = one.version
    one.apply([Event(LAYOUT.key("k1"), None, 5)], 5)
    assert one.version > version


def test_a_proof_waits_until_its_revision_is_applied() -> None:
    one = bundle()
    one.load(snapshot_of({}, 5))
    one.add_proof(Beacon(5), 100.0)
    assert one.proven_at == 100.0
    one.add_proof(Beacon(7), 200.0)
    assert one.proven_at == 100.0
    one.apply([Event(LAYOUT.beacon, b"", 6)], 6)
    assert one.proven_at == 100.0
    one.apply([Event(LAYOUT.beacon, b"", 7)], 7)
    assert one.proven_at == 200.0


def test_a_proof_whose_revision_is_applied_late_is_dropped() -> None:
    """etcd may have been restored meanwhile. Then the same number is a revision of another history."""
    now = 100.0
    one = TrustBundle(LAYOUT, ISSUER, clock=lambda: now)
    one.load(snapshot_of({}, 5))
    one.add_proof(Beacon(7), 100.0)
    now = 100.0 + MAX_SILENCE_SECONDS + 0.1
    one.apply([Event(LAYOUT.beacon, b"", 7)], 7)
    assert one.proven_at is None
    one.add_proof(Beacon(7), now)
    assert one.proven_at == now


def test_a_lagging_watch_does_not_keep_proofs_from_counting() -> None:
    """Each proof waits for its own revision only, so a steady stream of commits delays none."""
    now = 100.0
    one = TrustBundle(LAYOUT, ISSUER, clock=lambda: now)
    one.load(snapshot_of({}, 5))
    one.add_proof(Beacon(7), 100.0)
    one.add_proof(Beacon(8), 101.0)
    now = 102.0
    one.apply([Event(LAYOUT.beacon, b"", 7)], 7)
    assert one.proven_at == 100.0
    one.apply([Event(LAYOUT.beacon, b"", 9)], 9)
    assert one.proven_at == 101.0


def test_a_loss_without_a_history_record_takes_the_proof_away() -> None:
    one = bundle()
    one.load(snapshot_of({}, 50))
    one.add_proof(Beacon(50), 100.0)
    one.load(snapshot_of({}, 20))
    assert one.proven_at is None


def test_a_late_key_lookup_does_not_bring_a_removed_key_back() -> None:
    key = read_key(RECORDS["k1"])
    one = bundle()
    one.load(snapshot_of({LAYOUT.key("k1"): 2}, 2))
    one.apply([Event(LAYOUT.key("k1"), None, 9)], 9)
    one.add_key(key, 8)  # read before the removal, but answered after it
    assert not one.keys
    one.add_key(key, 10)
    assert set(one.keys) == {"k1"}


def test_a_key_record_at_another_keys_place_is_ignored() -> None:
    one = bundle()
    entry = KeyValue(RECORDS["k1"], 2, 2, 0)
    one.load(Snapshot({LAYOUT.key("k2"): entry}, 2))
    assert not one.keys


def test_a_proof_counts_only_if_the_watch_has_brought_the_same_beacon() -> None:
    """Reads and the watch use two connections. One may lead to a restored etcd, and the other not."""
    one = bundle()
    one.load(with_history(5, b"five"))
    one.add_proof(Beacon(5, b"five"), 100.0)
    assert one.proven_at == 100.0
    one.add_proof(Beacon(7, b"seven"), 101.0)
    one.apply([Event(LAYOUT.beacon, b"seven", 7), Event(LAYOUT.beacon, b"eight", 8)], 8)
    assert one.proven_at == 101.0
    one.add_proof(Beacon(9, b"another nine"), 102.0)
    one.apply([Event(LAYOUT.beacon, b"nine", 9)], 9)
    assert one.proven_at == 101.0
    assert "beacon of revision 9" in one.monitor.loss


def test_a_beacon_that_the_watch_has_skipped_is_a_loss() -> None:
    one = bundle()
    one.load(with_history(5, b"five"))
    one.apply([Event(LAYOUT.beacon, b"nine", 9)], 9)
    one.add_proof(Beacon(7, b"seven"), 100.0)
    assert one.proven_at is None
    assert "beacon of revision 7" in one.monitor.loss


def test_a_beacon_too_old_to_compare_is_neither_proof_nor_loss() -> None:
    one = bundle()
    one.load(with_history(5, b"five"))
    for revision in range(6, 400):
        one.apply([Event(LAYOUT.beacon, b"%d" % revision, revision)], revision)
    one.add_proof(Beacon(7, b"7"), 100.0)
    assert one.proven_at is None
    assert not one.monitor.loss
    one.add_proof(Beacon(300, b"300"), 101.0)
    assert one.proven_at == 101.0


def with_history(revision: int, beacon: bytes) -> Snapshot:
    """A snapshot with a history, without which no loss is reported."""
    record = mesh_pb2.History(format=1, history_id="first").SerializeToString()
    values = {LAYOUT.history: KeyValue(record, 1, 1, 0), LAYOUT.beacon: KeyValue(beacon, revision, 1, 0)}
    return Snapshot(values, revision)
