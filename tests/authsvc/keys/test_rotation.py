"""The next step in each case, and the promises of a rotation in all histories that hypothesis generates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from authsvc.coordination import barriers
from authsvc.keys import algorithms
from authsvc.keys.revoker import KeyRevoker
from authsvc.keys.rotation import (
    Activate,
    Discard,
    JoinRequest,
    Key,
    KeyState,
    Prepare,
    RaiseBarrier,
    Remove,
    RemoveBarrier,
    Request,
    Retire,
    RotationState,
    Rules,
    Step,
    Wait,
    decide,
)
from authsvc.keys.rotation_request import RotationBusy, request_rotation
from authsvc.keys.snapshot import BARRIER, KeySnapshot, read_key_snapshot
from authsvc.keys.transactions import KeyTransaction, NewKey, transaction_for
from authsvc.keys.vault import Vault
from authsvc.revocation.revoker import Revoker
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import CreatedAt, Put
from interceptors.keyspace import Layout
from interceptors.scopes import key_scope
from interceptors.settings import EtcdSettings
from tests.authsvc.keys.etcd_model import ModelEtcd
from tests.support.keys import auth_settings

RULES = Rules(algorithm="EdDSA", interval=1000.0, retirement=100.0)
NOW = 5000.0


def key(kid: str, state: KeyState, **fields: Any) -> Key:
    defaults: dict[str, Any] = {"algorithm": "EdDSA", "prepared_at": NOW - 50, "activated_at": NOW - 40, "revision": 7}
    return Key(kid=kid, state=state, **{**defaults, **fields})


ACTIVE = key("a", KeyState.ACTIVE)
PREPARED = key("p", KeyState.PREPARED, activated_at=0.0, revision=9)
WAITING = RotationState(keys=(ACTIVE, PREPARED), signing="a", barrier_revision=9, waiting_for=frozenset({"n1"}))


@pytest.mark.parametrize(
    ("state", "step"),
    [
        pytest.param(RotationState(), Prepare("EdDSA", "no key signs"), id="first start"),
        pytest.param(RotationState(keys=(ACTIVE,), signing="a"), Wait(NOW + 960), id="nothing due"),
        pytest.param(
            RotationState(keys=(key("a", KeyState.ACTIVE, activated_at=NOW - 1000),), signing="a"),
            Prepare("EdDSA", "scheduled"),
            id="the interval has passed",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE,), signing="a", request=Request("ES256")),
            Prepare("ES256", "requested"),
            id="requested with an algorithm",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE,), signing="a", request=Request("")),
            Prepare("EdDSA", "requested"),
            id="requested with the default",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE,), signing="gone"), Retire("a", NOW + 100), id="an ACTIVE key does not sign"
        ),
        pytest.param(RotationState(signing="gone"), Prepare("EdDSA", "no key signs"), id="signing names no key"),
        pytest.param(
            RotationState(keys=(key("a", KeyState.RETIRING, remove_at=NOW - 1),), signing="a"),
            Prepare("EdDSA", "no key signs"),
            id="signing names a RETIRING key, which is not removed before it has a successor",
        ),
        pytest.param(
            RotationState(keys=(key("a", KeyState.ACTIVE, usable=False),), signing="a"),
            Prepare("EdDSA", "no key signs"),
            id="the signing key does not open",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE, key("r", KeyState.RETIRING, remove_at=0.0)), signing="a"),
            Retire("r", NOW + 100),
            id="a RETIRING key has no time of removal",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE,), signing="a", barrier_revision=8),
            RemoveBarrier(),
            id="a barrier without a key",
        ),
        pytest.param(WAITING, Wait(math.inf, "p", frozenset({"n1"})), id="a node has not acknowledged"),
        pytest.param(
            RotationState(keys=(ACTIVE, PREPARED), signing="a", barrier_revision=9),
            Activate("p", ("a",), NOW + 100),
            id="all nodes have acknowledged",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE, PREPARED), signing="a", barrier_revision=8),
            RaiseBarrier("p"),
            id="an older barrier",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE, key("p", KeyState.PREPARED, usable=False)), signing="a", barrier_revision=9),
            Discard("p"),
            id="the PREPARED key does not open",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE, PREPARED), signing="a", barrier_revision=9, request=Request("")),
            JoinRequest("p"),
            id="a request joins the rotation under way",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE, PREPARED), signing="a", barrier_revision=9, request=Request("ES256")),
            Activate("p", ("a",), NOW + 100),
            id="a request with another algorithm comes next",
        ),
        pytest.param(
            RotationState(keys=(key("o", KeyState.PREPARED, revision=8), PREPARED), barrier_revision=9),
            Discard("o"),
            id="two PREPARED keys",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE, key("r", KeyState.RETIRING, remove_at=NOW)), signing="a"),
            Remove("r"),
            id="a RETIRING key is due for removal",
        ),
        pytest.param(
            RotationState(keys=(ACTIVE, key("r", KeyState.RETIRING, remove_at=NOW + 3)), signing="a"),
            Wait(NOW + 3),
            id="a RETIRING key is almost due for removal",
        ),
        pytest.param(
            RotationState(
                keys=(ACTIVE, PREPARED, key("r", KeyState.RETIRING, remove_at=NOW)),
                signing="a",
                barrier_revision=9,
                waiting_for=frozenset({"n1"}),
            ),
            Remove("r"),
            id="a rotation that waits does not delay a removal",
        ),
    ],
)
def test_the_next_step(state: RotationState, step: Step) -> None:
    assert decide(state, RULES, NOW) == step


def test_a_silent_node_delays_a_rotation_for_as_long_as_the_rules_allow() -> None:
    rules = Rules(algorithm="EdDSA", interval=1000.0, retirement=100.0, proceed_after=60.0)
    assert decide(WAITING, rules, PREPARED.prepared_at + 59.9) == Wait(
        PREPARED.prepared_at + 60, "p", frozenset({"n1"})
    )
    step = decide(WAITING, rules, PREPARED.prepared_at + 60)
    assert step == Activate("p", ("a",), PREPARED.prepared_at + 160, without=frozenset({"n1"}))


def test_a_silent_node_delays_signing_in_only_briefly_when_no_key_signs() -> None:
    unsigned = RotationState(keys=(PREPARED,), barrier_revision=9, waiting_for=frozenset({"n1"}))
    assert isinstance(decide(unsigned, RULES, PREPARED.prepared_at + 9.9), Wait)
    step = decide(unsigned, RULES, PREPARED.prepared_at + 10)
    assert step == Activate("p", (), PREPARED.prepared_at + 110, without=frozenset({"n1"}))


class Mesh(RuleBasedStateMachine):
    """A mesh: leaders that die or are deposed, and commits that arrive late; nodes that come, lag and go; operators.

    These rules never let a rotation proceed without a node, so every promise holds without exception.
    """

    policy = Rules(
        algorithm="EdDSA", interval=1000.0, retirement=100.0, proceed_after=math.inf, proceed_unsigned_after=math.inf
    )

    @initialize()
    def start(self) -> None:
        self.etcd = ModelEtcd()
        self.layout = Layout("/m/")
        self.vault = Vault(b"k" * 32)
        self.now = NOW
        self.kids = itertools.count(1)
        self.names = itertools.count(1)
        self.nodes: dict[str, int] = {}  # the revision that each node has applied; 0 before it has read the mesh
        self.late: list[tuple[KeyTransaction, CreatedAt]] = []
        self.signed_until: dict[str, float] = {}
        self.first_seen: dict[tuple[str, int], float] = {}  # when the leader first saw each record RETIRING
        settings = auth_settings(EtcdSettings(endpoints=("model:2379",)))
        revocation = Revoker(self.etcd.client, self.layout, settings, clock=lambda: self.now)
        self.revoker = KeyRevoker(self.etcd.client, self.layout, revocation, clock=lambda: self.now)
        self.elect()

    @rule()
    def elect(self) -> None:
        """Another replica is elected. The leader before it does not know that yet."""
        self.etcd.values.pop(self.layout.leader, None)
        self.etcd.commit([], [Put(self.layout.leader, b"")])
        self.fence = CreatedAt(self.layout.leader, self.etcd.revision)
        self.first_seen = {}

    def with_retiring_times(self, state: RotationState) -> RotationState:
        """The state, with the seconds for which the leader has seen each key RETIRING."""
        retiring = {(key.kid, key.revision) for key in state.keys if key.state is KeyState.RETIRING}
        self.first_seen = {one: self.first_seen.get(one, self.now) for one in retiring}

        def seen_for(key: Key) -> float:
            return self.now - self.first_seen.get((key.kid, key.revision), self.now)

        return replace(state, keys=tuple(replace(key, retiring_for=seen_for(key)) for key in state.keys))

    def snapshot(self) -> KeySnapshot:
        return read_key_snapshot(self.etcd.client, self.layout, usable=lambda *_: True)

    def next_commit(self) -> tuple[Step, KeyTransaction]:
        snapshot = self.snapshot()
        step = decide(self.with_retiring_times(snapshot.state), self.policy, self.now)
        new = None
        if isinstance(step, Prepare):
            new = NewKey(f"k{next(self.kids)}", step.algorithm, algorithms.generate_private_key(step.algorithm))
        return step, transaction_for(step, snapshot, self.layout, now=self.now, new_key=new, vault=self.vault)

    def apply(self, commit: KeyTransaction, fence: CreatedAt) -> None:
        """Applies a commit, early or late, and checks what it did to the keys."""
        before = {key.kid: key for key in self.snapshot().state.keys}
        signing = self.snapshot().state.signing
        if self.etcd.commit([fence, *commit.conditions], commit.operations) is None:
            return
        assert fence == self.fence, "a deposed leader wrote"
        after = {key.kid: key for key in self.snapshot().state.keys}
        for kid in before.keys() - after.keys():
            if before[kid].state is KeyState.RETIRING:
                assert self.now >= before[kid].remove_at, "a key was removed before its time"
                assert self.now >= self.signed_until[kid] + self.policy.retirement
        if signing is not None and signing != self.snapshot().state.signing:
            self.signed_until[signing] = self.now

    @rule()
    def step(self) -> None:
        """The leader does one step. It keeps no state, so it makes no difference whether it then dies."""
        step, commit = self.next_commit()
        if not isinstance(step, Wait):
            self.apply(commit, self.fence)

    @rule()
    def step_late(self) -> None:
        """The leader's commit is delayed on its way to etcd."""
        step, commit = self.next_commit()
        if not isinstance(step, Wait):
            self.late.append((commit, self.fence))

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        """A delayed commit arrives, whichever replica leads by then."""
        index = data.draw(st.integers(0, len(self.late) - 1))
        self.apply(*self.late.pop(index))

    @rule()
    def join(self) -> None:
        node = f"n{next(self.names)}"
        self.etcd.commit([], [Put(self.layout.node(node), b"", 1)])
        self.nodes[node] = 0

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.nodes)))
        del self.nodes[node]
        for name in (self.layout.node(node), self.layout.ack(BARRIER, node)):
            self.etcd.values.pop(name, None)
        self.etcd.revision += 1

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def catch_up(self, data: st.DataObject) -> None:
        """A node applies everything, and acknowledges the barrier if one is raised."""
        node = data.draw(st.sampled_from(sorted(self.nodes)))
        if data.draw(st.booleans()):
            self.catch_up_and_acknowledge(node)
        else:
            self.nodes[node] = self.etcd.revision  # its acknowledgement has not arrived yet

    def catch_up_and_acknowledge(self, node: str) -> None:
        self.nodes[node] = self.etcd.revision
        barrier = self.etcd.values.get(self.layout.barrier(BARRIER))
        if barrier is not None:
            ack = mesh_pb2.Ack(format=1, revision=barrier.mod_revision)
            self.etcd.commit([], [Put(self.layout.ack(BARRIER, node), ack.SerializeToString())])

    @rule(algorithm=st.sampled_from(["", "EdDSA", "ES256"]))
    def request(self, algorithm: str) -> None:
        try:
            request_rotation(self.etcd.client, self.layout, algorithm, "operator", clock=lambda: self.now)
        except RotationBusy:
            assert self.snapshot().state.request is not None

    @precondition(lambda self: self.snapshot().state.keys)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        kid = data.draw(st.sampled_from([key.kid for key in self.snapshot().state.keys]))
        self.revoker.revoke(kid, "operator", "")
        assert self.layout.epoch(key_scope(kid)) in self.etcd.values
        assert self.layout.key(kid) not in self.etcd.values
        assert self.layout.sealed_key(kid) not in self.etcd.values
        assert self.snapshot().state.signing != kid

    @precondition(lambda self: self.snapshot().state.keys)
    @rule(data=st.data())
    def revoke_during_a_step(self, data: st.DataObject) -> None:
        """A key is revoked between the leader's decision and its commit."""
        step, commit = self.next_commit()
        self.revoke(data)
        if not isinstance(step, Wait):
            self.apply(commit, self.fence)

    @rule()
    def complete_rotation(self) -> None:
        """All nodes acknowledge for a while, so that a rotation completes."""
        for _ in range(4):
            for node in self.nodes:
                self.catch_up_and_acknowledge(node)
            self.step()

    @rule(seconds=st.sampled_from([0.5, 40.0, 99.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def at_most_one_key_signs(self) -> None:
        state = self.snapshot().state
        active = [key.kid for key in state.keys if key.state is KeyState.ACTIVE]
        assert active == ([] if state.signing is None else [state.signing])

    @invariant()
    def one_rotation_at_a_time(self) -> None:
        state = self.snapshot().state
        prepared = [key for key in state.keys if key.state is KeyState.PREPARED]
        assert len(prepared) == (1 if state.barrier_revision else 0)

    @invariant()
    def every_node_that_serves_holds_the_key_that_signs(self) -> None:
        signing = self.snapshot().state.signing
        if signing is None:
            return
        made = self.etcd.values[self.layout.key(signing)].create_revision
        assert all(applied >= made for applied in self.nodes.values() if applied)

    @invariant()
    def every_key_has_its_private_half(self) -> None:
        kids = {key.kid for key in self.snapshot().state.keys}
        prefix = self.layout.vault
        assert kids == {self.layout.name(name, prefix) for name in self.etcd.values if name.startswith(prefix)}

    def teardown(self) -> None:
        """After any history, a leader ends with one key that signs and nothing left over."""
        if not hasattr(self, "etcd"):
            return
        for _ in range(30):
            for node in self.nodes:
                self.catch_up_and_acknowledge(node)
            step, commit = self.next_commit()
            if isinstance(step, Wait):
                break
            self.apply(commit, self.fence)
        state = self.snapshot().state
        assert isinstance(step, Wait)
        assert state.signing is not None
        assert state.request is None
        assert not state.barrier_revision
        assert not [name for name in self.etcd.values if name.startswith(barriers.acks_directory(self.layout, BARRIER))]


Mesh.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestMesh = Mesh.TestCase


def test_an_older_or_unreadable_acknowledgement_does_not_count() -> None:
    def ack(revision: int) -> bytes:
        return mesh_pb2.Ack(format=1, revision=revision).SerializeToString()

    acks = {"good": ack(9), "newer": ack(10), "older": ack(8), "foreign": b"\xff", "gone": ack(9)}
    nodes: Sequence[str] = ["good", "newer", "older", "foreign", "silent"]
    assert barriers.unacknowledged_nodes(nodes, acks, 9) == {"older", "foreign", "silent"}
