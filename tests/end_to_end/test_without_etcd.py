"""etcd dies: a receipt is neither late nor wrong, and a strict call does not hang."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from interceptors import Reason
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.end_to_end.conftest import BOUND
from tests.end_to_end.test_receipts import ALLOWANCE, Start, accepts
from tests.support.people import People, lagging
from tests.support.probe.clients import bearer, make_client
from tests.support.waiting import wait_until


def test_a_receipt_is_neither_late_nor_wrong_if_etcd_dies_meanwhile(
    people: People, probe: Start, own_etcd: EtcdProcess, own_settings: EtcdSettings
) -> None:
    frozen = probe()
    frozen.freeze()
    layout = Layout(own_settings.prefix)
    with ThreadPoolExecutor(1) as pool, EtcdClient(own_settings) as etcd:
        begun = time.monotonic()
        waiting = pool.submit(people.revoke, subject="alice")
        wait_until(lambda: etcd.read_prefix(layout.acks).values)
        own_etcd.kill()
        receipt = waiting.result().receipt
        took = time.monotonic() - begun
    assert took < BOUND + ALLOWANCE
    assert not receipt.complete
    assert frozen.node_id in lagging(receipt)
    assert receipt.revision > 0


def test_a_strict_call_with_a_new_credential_does_not_hang_without_etcd(
    people: People, probe: Start, own_etcd: EtcdProcess
) -> None:
    """The node may not have the revision that the credential claims, and cannot ask etcd for it."""
    node = probe("aio")
    with make_client("sync", node.target) as client:
        known = people.sign_in().access_token
        assert accepts(client, "Fresh", known)
        token = people.sign_in().access_token
        own_etcd.kill()
        begun = time.monotonic()
        outcome = client.call("Fresh", "who", metadata=bearer(token), timeout=20)
        assert time.monotonic() - begun < 2.5
        assert outcome.code is grpc.StatusCode.OK or outcome.reason is Reason.MESH_STALE
        assert accepts(client, "Unary", token)
