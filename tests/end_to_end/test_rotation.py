"""Rotation is gated by every live node; who holds it up is named; a leader that was paused changes nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest

from credmesh.admin.v1 import keys_pb2
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors import Reason
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from tests.support.people import People
from tests.support.probe.clients import bearer, make_client
from tests.support.probe.process import ProbeProcess
from tests.support.processes import AuthProcess
from tests.support.waiting import wait_until

Start = Callable[..., ProbeProcess]
PREPARED, ACTIVE = keys_pb2.KEY_STATE_PREPARED, keys_pb2.KEY_STATE_ACTIVE


class Watch:
    """Follows the keys in a thread, and keeps every answer."""

    def __init__(self, people: People) -> None:
        self.answers: list[keys_pb2.WatchKeysResponse] = []
        self.ended: grpc.StatusCode | None = None
        self._call: Any = people.keys.WatchKeys(keys_pb2.WatchKeysRequest(), metadata=people.operator())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.answers)

    def _run(self) -> None:
        try:
            for answer in self._call:
                self.answers.append(answer)
        except grpc.RpcError:
            self.ended = self._call.code()

    def of(self, kid: str) -> list[keys_pb2.Key]:
        """All that was said of a key."""
        return [key for answer in list(self.answers) for key in answer.keys if key.kid == kid]

    def close(self) -> None:
        """The caller leaves."""
        self._call.cancel()
        self._thread.join(10)


@pytest.fixture
def watch(people: People) -> Iterator[Watch]:
    found = Watch(people)
    yield found
    found.close()


def rotate(people: People) -> keys_pb2.Key:
    """Asks for a rotation; the key as soon as it is known."""
    answer: keys_pb2.RotateKeysResponse = people.ask(people.keys.RotateKeys, keys_pb2.RotateKeysRequest())
    return answer.key


def keys(people: People) -> dict[str, keys_pb2.Key]:
    answer: keys_pb2.ListKeysResponse = people.ask(people.keys.ListKeys, keys_pb2.ListKeysRequest())
    return {key.kid: key for key in answer.keys}


def test_no_key_signs_before_a_frozen_node_has_acknowledged_it_and_it_is_named(
    people: People, probe: Start, watch: Watch, auth: AuthProcess
) -> None:
    well, frozen = probe("aio"), probe("sync", environ={"CREDMESH_NODE_LEASE": "60"})
    frozen.freeze()
    kid = rotate(people).kid
    wait_until(lambda: list(keys(people)[kid].waiting_for) == [frozen.node_id])
    # One that comes up meanwhile counts too.
    late = probe("aio")
    wait_until(lambda: {one.node_id for one in watch.of(kid)[-1].acknowledged} >= {well.node_id, late.node_id})
    assert keys(people)[kid].state == PREPARED
    wait_until(lambda: auth.log(message="key.waiting"), timeout=15)
    assert auth.log(message="key.waiting")[-1]["waiting_for"] == [frozen.node_id]
    frozen.thaw()
    wait_until(lambda: keys(people)[kid].state == ACTIVE)
    (line,) = [one for one in auth.log(message="key.activate") if one["kid"] == kid]
    assert line["without"] == []
    # The watch has seen it all, with times.
    wait_until(lambda: watch.of(kid)[-1].state == ACTIVE)
    told = {one.node_id: one for one in watch.of(kid)[-1].acknowledged}
    assert {well.node_id, frozen.node_id} <= told.keys()
    assert told[well.node_id].after.ToNanoseconds() < told[frozen.node_id].after.ToNanoseconds()
    token = people.sign_in().access_token
    for node in (well, frozen, late):
        with make_client("sync", node.target) as client:
            assert client.call("Unary", "who", metadata=bearer(token)).code is grpc.StatusCode.OK


def test_a_node_that_dies_holds_a_rotation_up_as_long_as_its_lease_and_no_longer(people: People, probe: Start) -> None:
    dying = probe(environ={"CREDMESH_NODE_LEASE": "2"})
    dying.freeze()
    kid = rotate(people).kid
    dying.kill()
    wait_until(lambda: keys(people)[kid].state == ACTIVE, timeout=20)


def test_the_policy_can_let_a_rotation_go_on_without_a_node_that_does_not_answer(
    own_settings: EtcdSettings, secrets: dict[str, str], probe: Start
) -> None:
    """It is then audited who was left behind; that node asks for the key when it meets it."""
    with AuthProcess(own_settings, environ={"CREDMESH_ROTATION_PROCEED_AFTER": "1"}) as auth, auth.channel() as channel:
        people = People(channel, secrets)
        frozen = probe(environ={"CREDMESH_NODE_LEASE": "60"})
        frozen.freeze()
        kid = rotate(people).kid
        wait_until(lambda: keys(people)[kid].state == ACTIVE)
        (line,) = [one for one in auth.log(message="key.activate") if one["kid"] == kid]
        assert line["without"] == [frozen.node_id]
        token = people.sign_in().access_token
        frozen.thaw()
        with make_client("sync", frozen.target) as client:
            assert client.call("Unary", "who", metadata=bearer(token)).code is grpc.StatusCode.OK


def test_following_the_keys_ends_with_its_caller_and_says_so_when_etcd_is_away(
    people: People, watch: Watch, own_etcd: Any
) -> None:
    own_etcd.kill()
    wait_until(lambda: watch.ended is not None, timeout=20)
    assert watch.ended is grpc.StatusCode.UNAVAILABLE


@contextmanager
def replicas(etcd: EtcdSettings, count: int) -> Iterator[list[AuthProcess]]:
    environ = {"CREDMESH_LEADER_LEASE": "2", "CREDMESH_NODE_LEASE": "4"}
    with ExitStack() as stack:
        yield [stack.enter_context(AuthProcess(etcd, environ=environ)) for _ in range(count)]


def leader(etcd: EtcdClient, found: list[AuthProcess]) -> AuthProcess:
    """The replica that leads, by its registration's address in the log."""
    key = Layout(etcd.settings.prefix).leader

    def record() -> store_pb2.LeaderRecord | None:
        entry = etcd.read(key).values.get(key)
        return None if entry is None else store_pb2.LeaderRecord.FromString(entry.value)

    wait_until(record)
    leads = [one for one in found if any("this replica leads" in str(line.get("message")) for line in one.log())]
    # Each has led at most once in these tests.
    return leads[-1]


def test_a_leader_that_was_paused_in_the_middle_of_a_rotation_changes_nothing_when_it_wakes_up(
    own_settings: EtcdSettings, secrets: dict[str, str], probe: Start
) -> None:
    with replicas(own_settings, 2) as both, EtcdClient(own_settings) as etcd, ExitStack() as stack:
        paused = leader(etcd, both)
        other = next(one for one in both if one is not paused)
        people = People(stack.enter_context(other.channel()), secrets)
        holding = probe(environ={"CREDMESH_NODE_LEASE": "60"})
        holding.freeze()
        kid = rotate(people).kid
        wait_until(lambda: holding.node_id in keys(people)[kid].waiting_for)
        os.kill(paused.pid, signal.SIGSTOP)
        try:
            holding.thaw()
            # The other one takes over, and carries on with what was begun, and begins more.
            wait_until(lambda: keys(people)[kid].state == ACTIVE, timeout=20)
            next_kid = rotate(people).kid
            wait_until(lambda: keys(people)[next_kid].state == ACTIVE, timeout=20)
            layout = Layout(own_settings.prefix)
            watched = (layout.keys, layout.vault, layout.signing, layout.leader, layout.rotation)
            before = [etcd.read_prefix(prefix).values for prefix in watched]
            said = len(paused.log(logger="credmesh.audit"))
        finally:
            os.kill(paused.pid, signal.SIGCONT)
        wait_until(lambda: any("does not lead any more" in str(line.get("message")) for line in paused.log()))
        # It is a replica as any other again.
        with paused.channel() as channel:
            again = People(channel, secrets)
            wait_until(lambda: _serves(again))
        assert [etcd.read_prefix(prefix).values for prefix in watched] == before
        steps = [line for line in paused.log(logger="credmesh.audit")[said:] if str(line["message"]).startswith("key.")]
        assert not steps


def _serves(people: People) -> bool:
    try:
        people.sign_in()
    except grpc.RpcError:
        return False
    return True


def test_a_key_that_is_removed_by_force_logs_nobody_out(people: People, probe: Start) -> None:
    """Again and again, with a receipt each time: whoever it hits renews, and is served on every node."""
    node = probe("aio")
    alice = people.sign_in()
    with make_client("sync", node.target) as client:
        for _ in range(3):
            kid = next(key.kid for key in keys(people).values() if key.state == ACTIVE)
            answer = people.ask(people.keys.RevokeKey, keys_pb2.RevokeKeyRequest(kid=kid, wait=True))
            assert answer.receipt.complete
            refused = client.call("Unary", "who", metadata=bearer(alice.access_token))
            assert refused.reason is Reason.KEY_UNKNOWN
            request = auth_pb2.RefreshRequest(refresh_token=alice.refresh_token)
            alice = people.auth.Refresh(request, timeout=20).credentials
            outcome = client.call("Unary", "who", metadata=bearer(alice.access_token))
            assert outcome.code is grpc.StatusCode.OK
