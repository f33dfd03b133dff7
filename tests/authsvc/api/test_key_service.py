"""KeyService and NodeService as an operator calls them: over gRPC, with a token, on a running mesh."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from authsvc.api.key_service import KeyServicer, algorithm_name, algorithm_number
from authsvc.api.node_service import NodeServicer
from authsvc.api.status_mapping import StatusMappingInterceptor
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.keys.algorithms import UnknownAlgorithm
from authsvc.keys.rotation import KeyState
from authsvc.revocation.receipts import Receipts
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc, nodes_pb2, nodes_pb2_grpc
from credmesh.store.v1 import auth_pb2
from interceptors.errors import Reason, reason_of
from interceptors.etcd.client import Delete, Put
from interceptors.server import ServerInterceptor
from interceptors.tokens.token_rules import ALGORITHMS
from tests.support.keys import Keys
from tests.support.waiting import wait_until

Code = grpc.StatusCode


@dataclass
class Api:
    """Stubs that call with a token of the key that signs at the moment of the call."""

    keys: Keys
    channel: grpc.Channel
    node_id: str

    def call(self, method: str, request: Any, *, timeout: float = 10, **claims: Any) -> Any:
        service = nodes_pb2_grpc.NodeServiceStub if method == "ListNodes" else keys_pb2_grpc.KeyServiceStub
        stub: Any = service(self.channel)
        metadata = (("authorization", f"Bearer {self.keys.token(**claims)}"),)
        return getattr(stub, method)(request, timeout=timeout, metadata=metadata)

    def refused(self, method: str, request: Any, **options: Any) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as error:
            self.call(method, request, **options)
        return error.value


@contextmanager
def served(keys: Keys) -> Iterator[Api]:
    node = keys.node("auth")
    server = grpc.server(ThreadPoolExecutor(16), interceptors=[ServerInterceptor(node), StatusMappingInterceptor()])
    ack_tracker = AckTracker(keys.settings, keys.etcd, keys.layout)
    ack_tracker.start()
    receipts = Receipts(keys.etcd, keys.layout, ack_tracker, longest_freshness=2.0)
    servicer = KeyServicer(
        etcd=keys.etcd, layout=keys.layout, ack_tracker=ack_tracker, receipts=receipts, revoker=keys.revoker()
    )
    keys_pb2_grpc.add_KeyServiceServicer_to_server(servicer, server)
    nodes = NodeServicer(etcd=keys.etcd, layout=keys.layout, ack_tracker=ack_tracker, probe_timeout=1.0)
    nodes_pb2_grpc.add_NodeServiceServicer_to_server(nodes, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Api(keys, channel, node.id)
    finally:
        server.stop(None).wait()
        ack_tracker.stop()


def _is_empty(api: Api, directory: str) -> bool:
    return not api.keys.etcd.read_prefix(directory).values


@pytest.fixture
def api(keys: Keys) -> Iterator[Api]:
    """The two services on a replica that leads. A first key signs."""
    with served(keys) as api:
        keys.leader()
        keys.wait_for_signing()
        yield api


@pytest.fixture
def leaderless(keys: Keys) -> Iterator[Api]:
    """The same, but no replica leads. A first key signs."""
    keys.rotator().step(keys.fence())
    with served(keys) as api:
        yield api


class TestAlgorithms:
    def test_the_api_has_a_number_for_each_algorithm_that_nodes_verify(self) -> None:
        assert [algorithm_name(algorithm_number(name)) for name in ALGORITHMS] == list(ALGORITHMS)

    def test_an_unspecified_algorithm_leaves_the_choice_to_the_service(self) -> None:
        assert algorithm_name(keys_pb2.KEY_ALGORITHM_UNSPECIFIED) == ""

    def test_a_number_without_an_algorithm_is_refused(self) -> None:
        with pytest.raises(UnknownAlgorithm, match="is not one of EdDSA, ES256, RS256"):
            algorithm_name(99)  # type: ignore[arg-type]  # a number that a newer client may send


class TestRotateKeys:
    def test_with_wait_it_returns_when_the_new_key_signs(self, api: Api) -> None:
        before = api.keys.signing()
        key = api.call("RotateKeys", keys_pb2.RotateKeysRequest(wait=True)).key
        assert key.kid == api.keys.signing() != before
        assert key.state == keys_pb2.KEY_STATE_ACTIVE
        assert key.algorithm == keys_pb2.KEY_ALGORITHM_ES256
        assert key.HasField("activated_at")

    def test_without_wait_it_returns_when_the_key_is_prepared(self, api: Api) -> None:
        api.keys.silent_node()
        before = api.keys.signing()
        request = keys_pb2.RotateKeysRequest(algorithm=keys_pb2.KEY_ALGORITHM_EDDSA)
        key = api.call("RotateKeys", request).key
        assert key.state == keys_pb2.KEY_STATE_PREPARED
        assert key.algorithm == keys_pb2.KEY_ALGORITHM_EDDSA
        assert "silent" in key.waiting_for
        assert api.keys.signing() == before

    def test_at_the_deadline_it_names_the_nodes_and_the_rotation_continues(self, api: Api) -> None:
        silent = api.keys.silent_node()
        before = api.keys.signing()
        error = api.refused("RotateKeys", keys_pb2.RotateKeysRequest(wait=True), timeout=1)
        assert error.code() is Code.DEADLINE_EXCEEDED
        prepared = next(kid for kid, state in api.keys.states().items() if state is KeyState.PREPARED)
        assert (
            error.details() == f"key {prepared} does not sign yet, because it waits for silent; the rotation continues"
        )
        api.keys.etcd.commit([], [Delete(silent)])
        assert api.keys.wait_for_signing(other_than=before) == prepared

    def test_callers_during_a_rotation_get_its_key(self, api: Api) -> None:
        silent = api.keys.silent_node()
        kid = api.call("RotateKeys", keys_pb2.RotateKeysRequest()).key.kid
        wait = keys_pb2.RotateKeysRequest(wait=True)
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(api.refused, "RotateKeys", wait, timeout=1) for _ in range(4)]
            assert all(f"key {kid} does not sign yet" in (one.result().details() or "") for one in waiting)
            patient = pool.submit(api.call, "RotateKeys", wait)
            assert not api.keys.snapshot().revisions[api.keys.layout.rotation], "joining leaves no request behind"
            api.keys.etcd.commit([], [Delete(silent)])
            assert patient.result().key.state == keys_pb2.KEY_STATE_ACTIVE

    def test_a_rotation_whose_key_is_revoked_still_ends_with_a_signing_key(self, api: Api) -> None:
        silent = api.keys.silent_node()
        before = api.keys.signing()
        kid = api.call("RotateKeys", keys_pb2.RotateKeysRequest()).key.kid
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(api.call, "RotateKeys", keys_pb2.RotateKeysRequest(wait=True))
            api.call("RevokeKey", keys_pb2.RevokeKeyRequest(kid=kid))
            api.keys.etcd.commit([], [Delete(silent)])
            key = waiting.result().key
        assert key.kid not in (before, kid)
        assert key.kid == api.keys.signing()

    def test_without_a_leader_the_request_is_kept(self, leaderless: Api) -> None:
        keys = leaderless.keys
        before = keys.signing()
        response = leaderless.call("RotateKeys", keys_pb2.RotateKeysRequest())
        assert not response.HasField("key")
        error = leaderless.refused("RotateKeys", keys_pb2.RotateKeysRequest(wait=True), timeout=2)
        assert error.code() is Code.DEADLINE_EXCEEDED
        assert "no leader has started the rotation yet" in (error.details() or "")
        keys.etcd.commit([], [Delete(keys.layout.leader)])
        keys.leader()
        keys.wait_for_signing(other_than=before)
        assert len(keys.states()) == 2

    def test_without_a_leader_a_second_algorithm_is_refused(self, leaderless: Api) -> None:
        leaderless.call("RotateKeys", keys_pb2.RotateKeysRequest(algorithm=keys_pb2.KEY_ALGORITHM_ES256))
        error = leaderless.refused(
            "RotateKeys", keys_pb2.RotateKeysRequest(algorithm=keys_pb2.KEY_ALGORITHM_RS256), timeout=20
        )
        assert error.code() is Code.FAILED_PRECONDITION
        assert "a rotation to ES256 was requested already" in (error.details() or "")

    def test_a_request_that_cannot_be_read_is_not_overwritten(self, leaderless: Api) -> None:
        layout = leaderless.keys.layout
        newer = auth_pb2.RotationRequest(format=7).SerializeToString()
        leaderless.keys.etcd.commit([], [Put(layout.rotation, newer)])
        error = leaderless.refused("RotateKeys", keys_pb2.RotateKeysRequest())
        assert error.code() is Code.FAILED_PRECONDITION
        assert leaderless.keys.etcd.read(layout.rotation).values[layout.rotation].value == newer

    def test_an_unknown_algorithm_is_refused_with_the_name_of_the_field(self, api: Api) -> None:
        request = keys_pb2.RotateKeysRequest()
        request.algorithm = 99  # type: ignore[assignment]
        error = api.refused("RotateKeys", request)
        assert error.code() is Code.INVALID_ARGUMENT
        assert violations(error) == ["algorithm"]


class TestListKeys:
    def test_it_lists_the_keys_oldest_first_page_by_page(self, api: Api) -> None:
        first = api.keys.signing()
        second, third = (api.call("RotateKeys", keys_pb2.RotateKeysRequest(wait=True)).key.kid for _ in range(2))
        found, token = [], ""
        for _ in range(3):
            page = api.call("ListKeys", keys_pb2.ListKeysRequest(page_size=1, page_token=token))
            found += page.keys
            token = page.next_page_token
        assert token == ""
        assert [key.kid for key in found] == [first, second, third]
        assert [key.state for key in found] == [3, 3, 2]
        assert found[0].HasField("removed_at")
        assert not found[2].HasField("removed_at")

    def test_it_names_the_nodes_that_a_prepared_key_waits_for(self, api: Api) -> None:
        api.keys.silent_node("slow-2")
        api.keys.silent_node("slow-1")
        kid = api.call("RotateKeys", keys_pb2.RotateKeysRequest()).key.kid

        wait_until(lambda: len(api.keys.snapshot().state.waiting_for) == 2, what="the replica itself to acknowledge")
        [key] = [key for key in api.call("ListKeys", keys_pb2.ListKeysRequest()).keys if key.kid == kid]
        assert list(key.waiting_for) == ["slow-1", "slow-2"]

    def test_keys_that_cannot_be_read_are_not_listed(self, api: Api) -> None:
        api.keys.etcd.commit([], [Put(api.keys.layout.key("odd"), b"\xff")])
        found = api.call("ListKeys", keys_pb2.ListKeysRequest()).keys
        assert [key.kid for key in found] == [api.keys.signing()]

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (keys_pb2.ListKeysRequest(page_size=-1), "page_size"),
            (keys_pb2.ListKeysRequest(page_size=1001), "page_size"),
            (keys_pb2.ListKeysRequest(page_token="\x00?"), "page_token"),
        ],
    )
    def test_invalid_page_fields_are_refused(self, api: Api, request_: keys_pb2.ListKeysRequest, field: str) -> None:
        error = api.refused("ListKeys", request_)
        assert error.code() is Code.INVALID_ARGUMENT
        assert violations(error) == [field]


class TestRevokeKey:
    def test_what_the_key_signed_is_refused_from_the_returned_revision_on(self, api: Api) -> None:
        kid = api.keys.signing() or ""
        old = api.keys.signers.signer(kid)
        before = api.keys.key(kid).revision
        revision = api.call("RevokeKey", keys_pb2.RevokeKeyRequest(kid=kid, reason="lost laptop")).revision
        assert revision > before
        wait_until(lambda: api.keys.signing() not in (None, kid), what="a successor")
        stub = keys_pb2_grpc.KeyServiceStub(api.channel)
        metadata = (("authorization", f"Bearer {api.keys.token(old)}"),)
        with pytest.raises(grpc.RpcError) as error:
            stub.ListKeys(keys_pb2.ListKeysRequest(), timeout=10, metadata=metadata)
        assert reason_of(_metadata(error.value)) is Reason.KEY_UNKNOWN
        assert kid not in [key.kid for key in api.call("ListKeys", keys_pb2.ListKeysRequest()).keys]

    def test_a_missing_key_is_not_found(self, api: Api) -> None:
        error = api.refused("RevokeKey", keys_pb2.RevokeKeyRequest(kid="../signing"))
        assert error.code() is Code.NOT_FOUND
        assert api.keys.signing() is not None

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (keys_pb2.RevokeKeyRequest(), "kid"),
            (keys_pb2.RevokeKeyRequest(kid="k" * 257), "kid"),
            (keys_pb2.RevokeKeyRequest(kid="k\n"), "kid"),
            (keys_pb2.RevokeKeyRequest(kid="k", reason="r" * 1025), "reason"),
        ],
    )
    def test_invalid_fields_are_refused(self, api: Api, request_: keys_pb2.RevokeKeyRequest, field: str) -> None:
        error = api.refused("RevokeKey", request_)
        assert error.code() is Code.INVALID_ARGUMENT
        assert violations(error) == [field]


@pytest.mark.parametrize(
    ("method", "request_", "scope"),
    [
        ("ListKeys", keys_pb2.ListKeysRequest(), "credmesh.keys.write"),
        ("RotateKeys", keys_pb2.RotateKeysRequest(), "credmesh.keys.read"),
        ("RevokeKey", keys_pb2.RevokeKeyRequest(kid="k"), "credmesh.keys.read"),
        ("ListNodes", nodes_pb2.ListNodesRequest(), "credmesh.keys.read"),
    ],
)
def test_another_scope_is_not_enough(api: Api, method: str, request_: Any, scope: str) -> None:
    assert reason_of(_metadata(api.refused(method, request_, scope=scope))) is Reason.SCOPE_MISSING


class TestListNodes:
    def test_it_lists_the_nodes_with_their_registrations(self, api: Api) -> None:
        orders = api.keys.node("orders")
        nodes = api.call("ListNodes", nodes_pb2.ListNodesRequest()).nodes
        assert [node.node_id for node in nodes] == sorted([api.node_id, orders.id])
        assert {node.service for node in nodes} == {"auth", "orders"}
        assert all(node.version and node.HasField("registered_at") for node in nodes)
        assert not any(node.acknowledged for node in nodes)

    def test_a_probe_tells_which_nodes_acknowledged_and_leaves_nothing_behind(self, api: Api) -> None:
        orders = api.keys.node("orders")
        revision = api.keys.etcd.read(api.keys.layout.beacon).revision
        begin = time.monotonic()
        nodes = api.call("ListNodes", nodes_pb2.ListNodesRequest(probe=True)).nodes
        duration = time.monotonic() - begin
        assert {node.node_id for node in nodes} == {api.node_id, orders.id}
        for node in nodes:
            assert node.acknowledged
            assert node.applied_revision > revision
            assert 0 <= node.acknowledged_after.ToTimedelta().total_seconds() < duration
            assert node.freshness_age.ToTimedelta().total_seconds() < node.longest_freshness.seconds == 10
        for directory in (api.keys.layout.barriers, api.keys.layout.acks):
            wait_until(partial(_is_empty, api, directory))

    def test_a_silent_node_is_listed_without_acknowledgement(self, api: Api) -> None:
        api.keys.silent_node("silent")
        nodes = api.call("ListNodes", nodes_pb2.ListNodesRequest(probe=True)).nodes
        assert {node.node_id: node.acknowledged for node in nodes} == {api.node_id: True, "silent": False}

    def test_a_node_whose_record_cannot_be_read_is_listed_by_its_id(self, api: Api) -> None:
        api.keys.etcd.commit([], [Put(api.keys.layout.node("odd/1"), b"\xff", api.keys.etcd.grant(60))])
        nodes = api.call("ListNodes", nodes_pb2.ListNodesRequest()).nodes
        assert "odd/1" in [node.node_id for node in nodes]

    def test_an_entry_without_a_lease_is_no_node_and_is_not_waited_for(self, api: Api) -> None:
        api.keys.etcd.commit([], [Put(api.keys.layout.node("by-hand"), b"")])
        nodes = api.call("ListNodes", nodes_pb2.ListNodesRequest(probe=True)).nodes
        assert {node.node_id: node.acknowledged for node in nodes} == {api.node_id: True}

    def test_pages_follow_each_other_in_the_order_of_the_ids(self, api: Api) -> None:
        for number in range(3):
            api.keys.silent_node(f"a{number}")
        first = api.call("ListNodes", nodes_pb2.ListNodesRequest(page_size=2))
        rest = api.call("ListNodes", nodes_pb2.ListNodesRequest(page_size=2, page_token=first.next_page_token))
        assert [node.node_id for node in (*first.nodes, *rest.nodes)] == ["a0", "a1", "a2", api.node_id]
        assert rest.next_page_token == ""

    def test_an_invalid_page_is_refused(self, api: Api) -> None:
        error = api.refused("ListNodes", nodes_pb2.ListNodesRequest(page_size=-5, probe=True))
        assert violations(error) == ["page_size"]


def _metadata(error: grpc.RpcError) -> Any:
    return error.trailing_metadata()


def violations(error: Any) -> list[str]:
    """The fields that a BadRequest names."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    bad = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(bad)
    return [violation.field for violation in bad.field_violations]
