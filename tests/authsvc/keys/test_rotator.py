"""The rotator on a real etcd: each step, a crash between any two steps, and a deposed leader."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from authsvc.keys import algorithms
from authsvc.keys.rotation import KeyState, Prepare, Rules, Wait, decide
from authsvc.keys.rotation_request import RotationBusy, request_rotation
from authsvc.keys.rotator import new_kid
from authsvc.keys.signer_cache import KeyMissing
from authsvc.keys.snapshot import BARRIER
from authsvc.keys.transactions import NewKey, transaction_for
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.etcd.client import Delete, Put
from interceptors.scopes import key_scope
from tests.support.keys import Keys, auth_settings
from tests.support.waiting import wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_mesh_without_any_key_gets_one_that_signs(keys: Keys) -> None:
    keys.rotator().step(keys.fence())
    kid = keys.signing()
    assert kid is not None
    assert keys.states() == {kid: KeyState.ACTIVE}
    assert keys.signers.signer(kid).algorithm == "ES256"


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
def test_the_first_key_has_the_algorithm_of_the_settings(keys: Keys, algorithm: str) -> None:
    keys.rotator(algorithm=algorithm).step(keys.fence())
    assert keys.key(keys.signing() or "").algorithm == algorithm


def test_a_key_signs_only_when_every_registered_node_has_acknowledged_it(keys: Keys) -> None:
    rotator, fence = keys.rotator(), keys.fence()
    rotator.step(fence)
    first = keys.signing()
    silent = keys.silent_node()
    node = keys.node()
    request_rotation(keys.etcd, keys.layout, "", "operator")
    rotator.step(fence)
    wait_until(lambda: keys.snapshot().state.waiting_for == {"silent"}, what="the registered node to acknowledge")
    for _ in range(3):
        rotator.step(fence)
    assert keys.signing() == first
    prepared = next(kid for kid, state in keys.states().items() if state is KeyState.PREPARED)
    wait_until(lambda: prepared in node.bundle.keys, what="the node to hold the prepared key")
    keys.etcd.commit([], [Delete(silent)])
    rotator.step(fence)
    assert keys.signing() == prepared
    assert keys.states() == {first: KeyState.RETIRING, prepared: KeyState.ACTIVE}


def test_an_acknowledgement_of_an_earlier_barrier_does_not_count(keys: Keys) -> None:
    keys.rotator().step(keys.fence())
    first = keys.signing()
    keys.silent_node("n1")
    stale = mesh_pb2.Ack(format=1, revision=keys.etcd.read(keys.layout.beacon).revision)
    keys.etcd.commit([], [Put(keys.layout.ack(BARRIER, "n1"), stale.SerializeToString())])
    request_rotation(keys.etcd, keys.layout, "", "operator")
    keys.rotator().step(keys.fence())
    assert keys.signing() == first
    assert keys.snapshot().state.waiting_for == {"n1"}


def test_a_node_that_delays_a_rotation_is_named_once_in_log_and_audit_trail(
    keys: Keys, caplog: pytest.LogCaptureFixture, audited: Callable[[str], list[Any]]
) -> None:
    clock = Clock()
    keys.silent_node("slow-7")
    rotator, fence = keys.rotator(clock=clock, proceed_unsigned_after=1e9), keys.fence()
    assert rotator.step(fence) == pytest.approx(5.0, abs=0.1)
    assert not audited("key.waiting")
    clock.now += 5.0
    rotator.step(fence)
    rotator.step(fence)
    [waiting] = audited("key.waiting")
    assert waiting.waiting_for == ["slow-7"]
    assert [record for record in caplog.records if "slow-7" in record.getMessage()]
    keys.silent_node("slow-8")
    rotator.step(fence)
    assert audited("key.waiting")[-1].waiting_for == ["slow-7", "slow-8"]
    assert keys.signing() is None


def test_a_silent_node_delays_signing_in_only_briefly_when_no_key_signs(
    keys: Keys, audited: Callable[[str], list[Any]]
) -> None:
    clock = Clock()
    keys.silent_node("slow-7")
    rotator, fence = keys.rotator(clock=clock), keys.fence()
    rotator.step(fence)
    assert keys.signing() is None
    clock.now += 10.0
    rotator.step(fence)
    assert keys.signing() is not None
    assert audited("key.activate")[-1].without == ["slow-7"]


def test_a_retired_key_is_kept_until_its_last_token_has_expired_plus_margin(keys: Keys) -> None:
    clock = Clock()
    rotator, fence = keys.rotator(clock=clock, token_lifetime=300.0, leeway=5.0, margin=60.0), keys.fence()
    rotator.step(fence)
    first = keys.signing() or ""
    clock.now += 1000.0
    request_rotation(keys.etcd, keys.layout, "", "operator")
    assert rotator.step(fence) == pytest.approx(30.0)
    assert keys.key(first).remove_at == pytest.approx(clock.now + 365.0)
    clock.now += 364.0
    assert rotator.step(fence) == pytest.approx(1.0, abs=0.01)
    assert first in keys.states()
    clock.now += 1.01
    rotator.step(fence)
    assert first not in keys.states()
    assert keys.layout.sealed_key(first) not in keys.etcd.read_prefix(keys.layout.vault).values


@pytest.mark.parametrize("shift", [600.0, -600.0], ids=["put forward", "put back again"])
def test_a_wall_clock_that_is_wrong_for_a_while_removes_no_key_too_early(keys: Keys, shift: float) -> None:
    """By all other clocks the tokens that the key signed are good, so no node may refuse them."""
    clock, monotonic = Clock(), Clock()
    rotator, fence = keys.rotator(clock=clock, monotonic=monotonic), keys.fence()
    rotator.step(fence)
    first = keys.signing() or ""
    clock.now += min(shift, 0.0)
    request_rotation(keys.etcd, keys.layout, "", "operator")
    rotator.step(fence)
    clock.now += abs(shift)
    monotonic.now += 364.0
    assert rotator.step(fence) == pytest.approx(1.0, abs=0.01)
    assert first in keys.states()
    monotonic.now += 1.01
    rotator.step(fence)
    assert first not in keys.states()


def test_a_new_leader_starts_counting_the_time_of_a_retired_key_at_zero(keys: Keys) -> None:
    """It relies on no other replica's clock. Keeping a key too long refuses no token."""
    clock = Clock()
    rotator = keys.rotator(clock=clock)
    rotator.step(keys.fence())
    first = keys.signing() or ""
    request_rotation(keys.etcd, keys.layout, "", "operator")
    rotator.step(keys.fence())
    clock.now += 300.0
    second = keys.fence()
    rotator.step(second)
    clock.now += 364.0
    rotator.step(second)
    assert first in keys.states()
    clock.now += 1.01
    rotator.step(second)
    assert first not in keys.states()


def test_keys_rotate_when_the_interval_since_the_activation_has_passed(
    keys: Keys, audited: Callable[[str], list[Any]]
) -> None:
    clock = Clock()
    rotator, fence = keys.rotator(clock=clock, rotation_interval=3600.0), keys.fence()
    rotator.step(fence)
    first = keys.signing()
    clock.now += 3599.0
    assert rotator.step(fence) == pytest.approx(1.0, abs=0.01)
    assert keys.signing() == first
    clock.now += 1.01
    rotator.step(fence)
    assert keys.signing() != first
    assert audited("key.prepare")[-1].cause == "scheduled"


@pytest.mark.parametrize("steps", range(5))
def test_a_successor_finishes_the_rotation_of_a_leader_that_died_at_any_step(keys: Keys, steps: int) -> None:
    keys.rotator().step(keys.fence())
    first = keys.signing() or ""
    keys.node()
    request_rotation(keys.etcd, keys.layout, "EdDSA", "operator")
    rules = Rules(algorithm="ES256", interval=1e6, retirement=365.0)
    dying = keys.fence()
    for _ in range(steps):
        snapshot = keys.snapshot()
        now = keys.key(first).activated_at + 1
        step = decide(snapshot.state, rules, now)
        if isinstance(step, Wait):
            wait_until(lambda: not keys.snapshot().state.waiting_for, what="the node to acknowledge")
            continue
        new = None
        if isinstance(step, Prepare):
            new = NewKey(new_kid(now), "EdDSA", algorithms.generate_private_key("EdDSA"))
        commit = transaction_for(step, snapshot, keys.layout, now=now, new_key=new, vault=keys.vault)
        assert keys.etcd.commit([dying, *commit.conditions], commit.operations)
    keys.etcd.commit([], [Delete(keys.layout.leader)])
    keys.leader("successor")
    second = keys.wait_for_signing(other_than=first)
    assert keys.states() == {first: KeyState.RETIRING, second: KeyState.ACTIVE}
    assert keys.key(second).algorithm == "EdDSA"
    state = keys.snapshot().state
    assert state.request is None
    assert not state.barrier_revision
    assert not keys.etcd.read_prefix(keys.layout.acks).values


def test_a_deposed_leader_changes_nothing_although_a_step_is_due(keys: Keys) -> None:
    keys.rotator().step(keys.fence())
    deposed = keys.fence()
    keys.fence()
    request_rotation(keys.etcd, keys.layout, "", "operator")
    before = keys.etcd.read_prefix(keys.layout.prefix).values
    assert keys.rotator().step(deposed) > 1
    assert keys.etcd.read_prefix(keys.layout.prefix).values == before


def test_an_unreadable_signing_record_stops_the_rotation_and_is_kept(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    newer = mesh_pb2.Signing(format=2, kid="k").SerializeToString()
    keys.etcd.commit([], [Put(keys.layout.signing, newer)])
    rotator, fence = keys.rotator(), keys.fence()
    with caplog.at_level(logging.ERROR):
        rotator.step(fence)
    assert "the rotation is stopped" in caplog.text
    assert keys.etcd.read(keys.layout.signing).values[keys.layout.signing].value == newer
    assert not keys.states()
    keys.etcd.commit([], [Delete(keys.layout.signing)])
    rotator.step(fence)
    assert keys.signing() is not None


def test_foreign_records_are_kept_and_disturb_no_rotation(keys: Keys) -> None:
    foreign = {
        keys.layout.key("foreign"): b"\xff\xff",
        keys.layout.key("newer"): mesh_pb2.VerificationKey(format=9, kid="newer").SerializeToString(),
        keys.layout.rotation: auth_pb2.RotationRequest(format=1, algorithm="HS256").SerializeToString(),
        keys.layout.node("odd"): b"\xff",
        keys.layout.node("left"): mesh_pb2.NodeRecord(format=1, node_id="left").SerializeToString(),
    }
    for name, value in foreign.items():
        keys.etcd.commit([], [Put(name, value)])
    keys.rotator().step(keys.fence())
    assert keys.signing() is not None
    found = keys.etcd.read(*foreign).values
    assert {name: entry.value for name, entry in found.items()} == foreign


def test_a_registered_node_whose_record_is_unreadable_is_waited_for(keys: Keys) -> None:
    """A newer node may write a record that this replica cannot read, and it verifies tokens too."""
    keys.etcd.commit([], [Put(keys.layout.node("newer"), b"\xff", keys.etcd.grant(60))])
    keys.rotator().step(keys.fence())
    assert keys.signing() is None
    assert keys.snapshot().state.waiting_for == {"newer"}


def test_an_entry_that_is_not_of_a_node_is_logged_once(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    odd = keys.layout.node("odd")
    keys.etcd.commit([], [Put(odd, b"")])
    keys.silent_node()
    rotator, fence = keys.rotator(), keys.fence()
    for _ in range(3):
        rotator.step(fence)
        assert keys.snapshot().state.waiting_for == {"silent"}
    [message] = [record.getMessage() for record in caplog.records if odd in record.getMessage()]
    assert "delete it" in message


@pytest.mark.parametrize("key_state", ["signing", "prepared"])
def test_a_key_whose_private_half_is_lost_is_replaced(keys: Keys, key_state: str) -> None:
    rotator, fence = keys.rotator(), keys.fence()
    rotator.step(fence)
    lost = first = keys.signing() or ""
    if key_state == "prepared":
        silent = keys.silent_node()
        request_rotation(keys.etcd, keys.layout, "EdDSA", "operator")
        rotator.step(fence)
        lost = next(kid for kid, state in keys.states().items() if state is KeyState.PREPARED)
        keys.etcd.commit([], [Delete(silent)])
    keys.etcd.commit([], [Delete(keys.layout.sealed_key(lost))])
    rotator.step(fence)
    second = keys.signing() or ""
    assert second not in (first, lost)
    assert keys.signers.signer(second).algorithm == ("EdDSA" if key_state == "prepared" else "ES256")


class TestRequests:
    def test_requests_join_the_rotation_under_way(self, keys: Keys, audited: Callable[[str], list[Any]]) -> None:
        rotator, fence = keys.rotator(), keys.fence()
        rotator.step(fence)
        silent = keys.silent_node()
        assert request_rotation(keys.etcd, keys.layout, "", "ann") is None
        assert request_rotation(keys.etcd, keys.layout, "EdDSA", "bea") is None
        rotator.step(fence)
        prepared = next(kid for kid, state in keys.states().items() if state is KeyState.PREPARED)
        assert request_rotation(keys.etcd, keys.layout, "", "cyd") == prepared
        assert request_rotation(keys.etcd, keys.layout, "EdDSA", "dee") == prepared
        keys.etcd.commit([], [Delete(silent)])
        rotator.step(fence)
        assert len(keys.states()) == 2
        assert keys.signing() == prepared

    def test_a_request_for_another_algorithm_is_kept_and_follows(self, keys: Keys) -> None:
        rotator, fence = keys.rotator(), keys.fence()
        rotator.step(fence)
        silent = keys.silent_node()
        request_rotation(keys.etcd, keys.layout, "EdDSA", "ann")
        rotator.step(fence)
        assert request_rotation(keys.etcd, keys.layout, "ES256", "bea") is None
        with pytest.raises(RotationBusy, match="to ES256 was requested already"):
            request_rotation(keys.etcd, keys.layout, "RS256", "cyd")
        rotator.step(fence)
        keys.etcd.commit([], [Delete(silent)])
        rotator.step(fence)
        assert keys.key(keys.signing() or "").algorithm == "ES256"
        assert len(keys.states()) == 3

    def test_a_request_that_names_an_algorithm_replaces_one_that_does_not(self, keys: Keys) -> None:
        assert request_rotation(keys.etcd, keys.layout, "", "ann") is None
        assert request_rotation(keys.etcd, keys.layout, "EdDSA", "bea") is None
        assert request_rotation(keys.etcd, keys.layout, "", "cyd") is None
        keys.rotator().step(keys.fence())
        assert keys.key(keys.signing() or "").algorithm == "EdDSA"


class TestRevocation:
    def test_a_key_is_revoked_everywhere_in_one_commit(self, keys: Keys) -> None:
        keys.rotator().step(keys.fence())
        kid = keys.signing() or ""
        node = keys.node()
        revision = keys.revoker().revoke(kid, "operator", "lost laptop")
        wait_until(lambda: node.bundle.revision >= revision, what="the node to apply the revocation")
        assert kid not in node.bundle.keys
        assert keys.signing() is None
        assert not keys.states()
        assert not keys.etcd.read_prefix(keys.layout.vault).values
        beacon = keys.etcd.read(keys.layout.beacon).values[keys.layout.beacon]
        assert beacon.mod_revision == revision
        # The epoch tells the nodes that the key did not just retire. It lives as long as sessions, since streams may
        # too.
        [(name, epoch)] = keys.etcd.read_prefix(keys.layout.epochs).values.items()
        assert name == keys.layout.epoch(key_scope(kid))
        assert epoch.mod_revision == revision
        assert keys.etcd.keep_alive(epoch.lease) >= auth_settings(keys.settings).session_lifetime

    def test_the_signing_key_gets_a_successor_that_waits_for_its_barrier(self, keys: Keys) -> None:
        rotator, fence = keys.rotator(), keys.fence()
        rotator.step(fence)
        first = keys.signing() or ""
        silent = keys.silent_node()
        keys.revoker().revoke(first, "operator", "")
        rotator.step(fence)
        assert keys.signing() is None
        [(successor, state)] = keys.states().items()
        assert state is KeyState.PREPARED
        keys.etcd.commit([], [Delete(silent)])
        rotator.step(fence)
        assert keys.signing() == successor != first

    def test_a_rotation_whose_key_is_revoked_starts_over_with_its_algorithm(self, keys: Keys) -> None:
        rotator, fence = keys.rotator(), keys.fence()
        rotator.step(fence)
        first = keys.signing()
        silent = keys.silent_node()
        request_rotation(keys.etcd, keys.layout, "EdDSA", "operator")
        rotator.step(fence)
        prepared = next(kid for kid, state in keys.states().items() if state is KeyState.PREPARED)
        keys.revoker().revoke(prepared, "operator", "")
        assert not keys.snapshot().state.barrier_revision
        assert keys.signing() == first
        keys.etcd.commit([], [Delete(silent)])
        rotator.step(fence)
        second = keys.signing() or ""
        assert second not in (first, prepared)
        assert keys.key(second).algorithm == "EdDSA"

    def test_a_retiring_key_is_revoked_without_another_rotation(self, keys: Keys) -> None:
        rotator, fence = keys.rotator(), keys.fence()
        rotator.step(fence)
        first = keys.signing() or ""
        request_rotation(keys.etcd, keys.layout, "", "operator")
        rotator.step(fence)
        second = keys.signing()
        keys.revoker().revoke(first, "operator", "")
        rotator.step(fence)
        assert keys.signing() == second
        assert list(keys.states()) == [second]

    def test_a_key_that_cannot_be_read_can_be_revoked(self, keys: Keys) -> None:
        keys.etcd.commit([], [Put(keys.layout.key("odd"), b"\xff\xff")])
        keys.revoker().revoke("odd", "operator", "")
        assert not keys.etcd.read_prefix(keys.layout.keys).values

    def test_revoking_a_key_that_does_not_exist_is_refused(self, keys: Keys) -> None:
        with pytest.raises(KeyMissing, match="there is no key 'x'"):
            keys.revoker().revoke("x", "operator", "")

    def test_a_revocation_is_audited_with_actor_and_reason(
        self, keys: Keys, audited: Callable[[str], list[Any]]
    ) -> None:
        keys.rotator().step(keys.fence())
        kid = keys.signing() or ""
        keys.revoker().revoke(kid, "ann", "lost laptop")
        [record] = audited("key.revoke")
        assert (record.kid, record.actor, record.reason, record.state) == (kid, "ann", "lost laptop", "ACTIVE")
