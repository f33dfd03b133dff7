"""A rotation waits for every registered node and names the slow ones. A leader that was paused changes nothing."""

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
    """Watches the keys in a thread, and keeps every response."""

    def __init__(self, people: People) -> None:
        self.responses: list[keys_pb2.WatchKeysResponse] = []
        self.ended: grpc.StatusCode | None = None
        self._call: Any = people.keys.WatchKeys(keys_pb2.WatchKeysRequest(), metadata=people.operator())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.responses)

    def _run(self) -> None:
        try:
            for response in self._call:
                self.responses.append(response)
        except grpc.RpcError:
            self.ended = self._call.code()

    def of(self, kid: str) -> list[keys_pb2.Key]:
        """A key in all responses so far."""
        return [key for response in list(self.responses) for key in response.keys if key.kid == kid]

    def close(self) -> None:
        """Cancels the call."""
        self._call.cancel()
        self._thread.join(10)


@pytest.fixture
def watch(people: People) -> Iterator[Watch]:
    watch = Watch(people)
    yield watch
    watch.close()


def rotate(people: People) -> keys_pb2.Key:
    """Requests a rotation. Returns the new key as soon as it is prepared."""
    answer: keys_pb2.RotateKeysResponse = people.ask(people.keys.RotateKeys, keys_pb2.RotateKeysRequest())
    return answer.key


def keys(people: People) -> dict[str, keys_pb2.Key]:
    answer: keys_pb2.ListKeysResponse = people.ask(people.keys.ListKeys, keys_pb2.ListKeysRequest())
    return {key.kid: key for key in answer.keys}


def test_no_key_signs_before_a_frozen_node_acknowledges_and_it_is_named(
    people: People, probe: Start, watch: Watch, auth: AuthProcess
) -> None:
    well, frozen = probe("aio"), probe("sync", environ={"CREDMESH_NODE_LEASE": "60"})
    frozen.freeze()
    kid = rotate(people).kid
    wait_until(lambda: list(keys(people)[kid].waiting_for) == [frozen.node_id])
    # A node that comes up meanwhile counts too.
    late = probe("aio")
    wait_until(lambda: {ack.node_id for ack in watch.of(kid)[-1].acknowledged} >= {well.node_id, late.node_id})
    assert keys(people)[kid].state == PREPARED
    wait_until(lambda: auth.log(message="key.waiting"), timeout=15)
    assert auth.log(message="key.waiting")[-1]["waiting_for"] == [frozen.node_id]
    frozen.thaw()
    wait_until(lambda: keys(people)[kid].state == ACTIVE)
    (line,) = [line for line in auth.log(message="key.activate") if line["kid"] == kid]
    assert line["without"] == []
    # The watch has reported all of it, with times.
    wait_until(lambda: watch.of(kid)[-1].state == ACTIVE)
    acks = {ack.node_id: ack for ack in watch.of(kid)[-1].acknowledged}
    assert {well.node_id, frozen.node_id} <= acks.keys()
    assert acks[well.node_id].after.ToNanoseconds() < acks[frozen.node_id].after.ToNanoseconds()
    token = people.sign_in().access_token
    for node in (well, frozen, late):
        with make_client("sync", node.target) as client:
            assert client.call("Unary", "who", metadata=bearer(token)).code is grpc.StatusCode.OK


def test_a_node_that_dies_delays_a_rotation_no_longer_than_its_lease(people: People, probe: Start) -> None:
    dying = probe(environ={"CREDMESH_NODE_LEASE": "2"})
    dying.freeze()
    kid = rotate(people).kid
    dying.kill()
    wait_until(lambda: keys(people)[kid].state == ACTIVE, timeout=20)


def test_a_setting_lets_a_rotation_proceed_without_a_silent_node(
    own_settings: EtcdSettings, secrets: dict[str, str], probe: Start
) -> None:
    """The audit trail then names the node. It fetches the key when it first sees a token of that key."""
    with AuthProcess(own_settings, environ={"CREDMESH_ROTATION_PROCEED_AFTER": "1"}) as auth, auth.channel() as channel:
        people = People(channel, secrets)
        frozen = probe(environ={"CREDMESH_NODE_LEASE": "60"})
        frozen.freeze()
        kid = rotate(people).kid
        wait_until(lambda: keys(people)[kid].state == ACTIVE)
        (line,) = [line for line in auth.log(message="key.activate") if line["kid"] == kid]
        assert line["without"] == [frozen.node_id]
        token = people.sign_in().access_token
        frozen.thaw()
        with make_client("sync", frozen.target) as client:
            assert client.call("Unary", "who", metadata=bearer(token)).code is grpc.StatusCode.OK


def test_a_watch_of_the_keys_ends_as_unavailable_without_etcd(people: People, watch: Watch, own_etcd: Any) -> None:
    own_etcd.kill()
    wait_until(lambda: watch.ended is not None, timeout=20)
    assert watch.ended is grpc.StatusCode.UNAVAILABLE


@contextmanager
def replicas(etcd: EtcdSettings, count: int) -> Iterator[list[AuthProcess]]:
    environ = {"CREDMESH_LEADER_LEASE": "2", "CREDMESH_NODE_LEASE": "4"}
    with ExitStack() as stack:
        yield [stack.enter_context(AuthProcess(etcd, environ=environ)) for _ in range(count)]


def leader(etcd: EtcdClient, candidates: list[AuthProcess]) -> AuthProcess:
    """The replica that leads, according to the logs."""
    key = Layout(etcd.settings.prefix).leader

    def record() -> store_pb2.LeaderRecord | None:
        entry = etcd.read(key).values.get(key)
        return None if entry is None else store_pb2.LeaderRecord.FromString(entry.value)

    wait_until(record)
    leaders = [
        replica
        for replica in candidates
        if any("this replica leads" in str(line.get("message")) for line in replica.log())
    ]
    # In these tests each replica leads at most once.
    return leaders[-1]


def test_a_leader_paused_during_a_rotation_changes_nothing_when_it_wakes(
    own_settings: EtcdSettings, secrets: dict[str, str], probe: Start
) -> None:
    with replicas(own_settings, 2) as both, EtcdClient(own_settings) as etcd, ExitStack() as stack:
        paused = leader(etcd, both)
        other = next(replica for replica in both if replica is not paused)
        people = People(stack.enter_context(other.channel()), secrets)
        holding = probe(environ={"CREDMESH_NODE_LEASE": "60"})
        holding.freeze()
        kid = rotate(people).kid
        wait_until(lambda: holding.node_id in keys(people)[kid].waiting_for)
        # The leader writes the audit trail after its commit, and must not be paused in between.
        wait_until(lambda: paused.log(message="key.prepare", kid=kid))
        os.kill(paused.pid, signal.SIGSTOP)
        try:
            holding.thaw()
            # The other replica takes over, completes this rotation, and carries out another one.
            wait_until(lambda: keys(people)[kid].state == ACTIVE, timeout=20)
            next_kid = rotate(people).kid
            wait_until(lambda: keys(people)[next_kid].state == ACTIVE, timeout=20)
            layout = Layout(own_settings.prefix)
            watched = (layout.keys, layout.vault, layout.signing, layout.leader, layout.rotation)
            before = [etcd.read_prefix(prefix).values for prefix in watched]
            audited = len(paused.log(logger="credmesh.audit"))
        finally:
            os.kill(paused.pid, signal.SIGCONT)
        wait_until(lambda: any("does not lead any more" in str(line.get("message")) for line in paused.log()))
        # It serves as a replica again.
        with paused.channel() as channel:
            again = People(channel, secrets)
            wait_until(lambda: _serves(again))
        assert [etcd.read_prefix(prefix).values for prefix in watched] == before
        steps = [
            line for line in paused.log(logger="credmesh.audit")[audited:] if str(line["message"]).startswith("key.")
        ]
        assert not steps


def _serves(people: People) -> bool:
    try:
        people.sign_in()
    except grpc.RpcError:
        return False
    return True


def test_revoking_a_signing_key_logs_no_user_out(people: People, probe: Start) -> None:
    """Each time the receipt is complete, and a client that is refused refreshes and is served again."""
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
