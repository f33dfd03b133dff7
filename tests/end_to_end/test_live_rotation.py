"""Rotation while nodes verify tokens all the time, with faults: no valid call is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from authsvc.keys.rotation import KeyState
from authsvc.keys.rotation_request import request_rotation
from authsvc.keys.rotator import Rotator
from authsvc.keys.signer_cache import KeyMissing
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import Delete, EtcdClient
from interceptors.node.mesh_node import MeshNode
from tests.support.keys import Keys
from tests.support.waiting import wait_until


class Calls:
    """Signs with the current key and lets every node verify, repeatedly, in a thread for each node."""

    def __init__(self, keys: Keys, nodes: list[MeshNode]) -> None:
        self.accepted = 0
        self.refused: list[Refusal] = []
        self.unprepared: list[str] = []
        self._keys = keys
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(len(nodes))
        self._running = [self._pool.submit(self._call, node) for node in nodes]

    def __enter__(self) -> Calls:
        wait_until(lambda: self.accepted > len(self._running))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()

    def wait_for_more(self) -> None:
        """Waits until some more calls were accepted."""
        enough = self.accepted + 10
        wait_until(lambda: self.accepted > enough)

    def _call(self, node: MeshNode) -> None:
        while not self._stop.is_set():
            kid = self._keys.signing()
            if kid is None:
                continue
            if kid not in node.bundle.keys:
                # The node could still fetch the key. The promise of the barrier must hold without that.
                self.unprepared.append(kid)
            try:
                token = self._keys.token(self._keys.signers.signer(kid))
            except KeyMissing:
                continue  # the key was just revoked
            try:
                node.verify(token)
                self.accepted += 1
            except Refusal as refusal:
                self.refused.append(refusal)


def test_rotations_under_load_refuse_no_call_and_take_milliseconds(keys: Keys) -> None:
    keys.leader()
    nodes = [keys.node(f"orders-{number}") for number in range(3)]
    kid = keys.wait_for_signing()
    durations = []
    with Calls(keys, nodes) as calls:
        for _ in range(15):
            begin = time.monotonic()
            request_rotation(keys.etcd, keys.layout, "", "operator")
            kid = keys.wait_for_signing(other_than=kid)
            durations.append(time.monotonic() - begin)
            calls.wait_for_more()
    assert calls.refused == []
    assert calls.unprepared == []
    assert len(keys.states()) == 16
    # Tens of milliseconds on an idle machine. The bound is generous, for a busy one.
    assert sorted(durations)[len(durations) // 2] < 0.5


def test_a_node_that_joins_during_a_rotation_refuses_nothing(keys: Keys) -> None:
    keys.leader()
    kid = keys.wait_for_signing()
    with Calls(keys, [keys.node()]) as calls:
        for number in range(4):
            request_rotation(keys.etcd, keys.layout, "", "operator")
            newcomer = keys.node(f"new-{number}")
            kid = keys.wait_for_signing(other_than=kid)
            assert newcomer.verify(keys.token(keys.signers.signer(kid))).subject == "operator"
    assert calls.refused == []
    assert calls.unprepared == []


def test_a_rotation_continues_when_the_leader_dies_in_the_middle_of_it(keys: Keys) -> None:
    first = keys.leader("replica-1", ttl=2)
    kid = keys.wait_for_signing()
    silent = keys.silent_node()
    request_rotation(keys.etcd, keys.layout, "", "operator")
    wait_until(lambda: KeyState.PREPARED in keys.states().values())
    second = keys.leader("replica-2", ttl=2)
    with Calls(keys, [keys.node()]) as calls:
        first.stop()
        wait_until(lambda: second.leading)
        assert keys.signing() == kid
        keys.etcd.commit([], [Delete(silent)])
        keys.wait_for_signing(other_than=kid)
    assert calls.refused == []
    assert calls.unprepared == []
    assert sorted(keys.states().values(), key=lambda state: state.value) == [KeyState.ACTIVE, KeyState.RETIRING]


def test_after_a_forced_revocation_nodes_accept_only_the_successors_tokens(keys: Keys) -> None:
    keys.leader()
    nodes = [keys.node(f"orders-{number}") for number in range(2)]
    first = keys.wait_for_signing()
    old = keys.token()
    for node in nodes:
        node.verify(old)
    revision = keys.revoker().revoke(first, "operator", "leaked")
    wait_until(lambda: all(node.bundle.revision >= revision for node in nodes))
    for node in nodes:
        with pytest.raises(Refusal) as refused:
            node.verify(old)
        assert refused.value.reason is Reason.KEY_UNKNOWN
    wait_until(lambda: keys.signing() not in (None, first))
    for node in nodes:
        node.verify(keys.token())


def test_many_requests_at_once_make_few_rotations(keys: Keys, audited: Callable[[str], list[Any]]) -> None:
    keys.leader()
    keys.node()
    kid = keys.wait_for_signing()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: request_rotation(keys.etcd, keys.layout, "", "operator"), range(8)))
    keys.wait_for_signing(other_than=kid)
    wait_until(lambda: keys.snapshot().state.request is None and KeyState.PREPARED not in keys.states().values())
    assert len(keys.states()) <= 4
    assert len(audited("key.activate")) == len(keys.states())


def test_an_idle_leader_sends_few_requests_to_etcd(keys: Keys) -> None:
    class CountingEtcdClient(EtcdClient):
        requests = 0

        def _request(self, *args: Any, **options: Any) -> Any:
            self.requests += 1
            return super()._request(*args, **options)

    with CountingEtcdClient(keys.settings) as etcd:
        rotator = Rotator(etcd, keys.layout, keys.vault, rotation_interval=1e6, token_lifetime=300.0, leeway=5.0)
        fence = keys.fence()
        rotator.step(fence)
        etcd.requests = 0
        assert rotator.step(fence) == pytest.approx(30.0)
        assert etcd.requests == 4
