"""The sample services on a whole mesh: the caller reaches every service, and errors reach the caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import grpc
import pytest

from credmesh.auth.v1 import auth_pb2
from credmesh.samples.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from credmesh.samples.orders.v1 import orders_pb2, orders_pb2_grpc
from credmesh.samples.storefront.v1 import storefront_pb2, storefront_pb2_grpc
from interceptors.errors import Reason, reason_of
from tests.support.running_mesh import RunningMesh
from tests.support.waiting import wait_until

Metadata = tuple[tuple[str, str], ...]


class Shop:
    """Stubs of the three services, and alice's metadata."""

    def __init__(self, mesh: RunningMesh, stack: ExitStack) -> None:
        self.mesh = mesh
        services = mesh.profile["services"]
        channels = {name: stack.enter_context(mesh.channel(address)) for name, address in services.items()}
        self.storefront = storefront_pb2_grpc.StorefrontServiceStub(channels["storefront"])
        self.orders = orders_pb2_grpc.OrdersServiceStub(channels["orders"])
        self.inventory = inventory_pb2_grpc.InventoryServiceStub(channels["inventory"])
        self.alice = self.bearer("alice")

    def bearer(self, subject: str, **request: Any) -> Metadata:
        """Signs a subject in; returns the metadata of its calls."""
        credentials = self.mesh.sign_in(subject, **request)
        return (("authorization", f"Bearer {credentials.access_token or credentials.session_token}"),)


@pytest.fixture
def shop(mesh: RunningMesh) -> Iterator[Shop]:
    """The shop, with alice signed in."""
    with ExitStack() as stack:
        yield Shop(mesh, stack)


def status_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, Reason | None, str]:
    """Returns the status, reason and message of a failed call."""
    call = cast("grpc.Call", error)
    metadata: Any = call.trailing_metadata()
    return call.code(), reason_of(metadata), call.details() or ""


def test_every_service_behind_the_storefront_sees_the_customer(shop: Shop) -> None:
    bought = shop.storefront.Buy(storefront_pb2.BuyRequest(sku="tea", quantity=1), metadata=shop.alice, timeout=20)
    seen = [(one.service, one.subject) for one in bought.seen]
    assert seen == [("storefront", "alice"), ("orders", "alice"), ("inventory", "alice")]
    assert bought.order_id


def test_every_service_accepts_an_opaque_session_that_is_passed_on(shop: Shop) -> None:
    bob = shop.bearer("bob", kind=auth_pb2.CREDENTIAL_KIND_SESSION)
    bought = shop.storefront.Buy(storefront_pb2.BuyRequest(sku="tea", quantity=1), metadata=bob, timeout=20)
    assert [one.subject for one in bought.seen] == ["bob"] * 3


@pytest.mark.parametrize(
    ("sku", "quantity", "code", "text"),
    [
        ("samovar", 1, grpc.StatusCode.NOT_FOUND, "there is no 'samovar'; there are tea"),
        ("", 1, grpc.StatusCode.NOT_FOUND, "there is no ''"),
        ("x" * 100_000, 1, grpc.StatusCode.NOT_FOUND, "there is no 'xxx"),
        ("tea", 0, grpc.StatusCode.INVALID_ARGUMENT, "quantity must be from 1 to 1000"),
        ("tea", -1, grpc.StatusCode.INVALID_ARGUMENT, "quantity must be from 1 to 1000"),
        ("tea", 1001, grpc.StatusCode.INVALID_ARGUMENT, "quantity must be from 1 to 1000"),
        ("teapot", 900, grpc.StatusCode.FAILED_PRECONDITION, "3 of teapot are left"),
    ],
)
def test_an_error_of_inventory_reaches_the_customer(
    shop: Shop, sku: str, quantity: int, code: grpc.StatusCode, text: str
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        shop.storefront.Buy(storefront_pb2.BuyRequest(sku=sku, quantity=quantity), metadata=shop.alice, timeout=20)
    status, reason, details = status_of(failed.value)
    assert (status, reason) == (code, None)
    assert details.startswith(text)


def test_a_refusal_behind_the_storefront_reaches_the_customer(shop: Shop) -> None:
    for_storefront_only = shop.bearer("alice", audiences=["storefront"])
    with pytest.raises(grpc.RpcError) as refused:
        shop.storefront.Buy(storefront_pb2.BuyRequest(sku="tea", quantity=1), metadata=for_storefront_only, timeout=20)
    assert status_of(refused.value)[:2] == (grpc.StatusCode.PERMISSION_DENIED, Reason.AUDIENCE_MISMATCH)


def test_a_credential_without_the_scope_is_refused(shop: Shop) -> None:
    reader = shop.bearer("alice", scopes=["shop.read"])
    assert shop.inventory.GetStock(inventory_pb2.GetStockRequest(sku="tea"), metadata=reader, timeout=20).left
    with pytest.raises(grpc.RpcError) as refused:
        shop.inventory.Reserve(inventory_pb2.ReserveRequest(sku="tea", quantity=1), metadata=reader, timeout=20)
    assert status_of(refused.value)[1] is Reason.SCOPE_MISSING


def test_orders_are_imported_in_one_call(shop: Shop) -> None:
    orders = [("tea", 1), ("teapot", 900), ("cups", 2)]
    requests = (orders_pb2.ImportOrdersRequest(sku=sku, quantity=quantity) for sku, quantity in orders)
    imported = shop.orders.ImportOrders(requests, metadata=shop.alice, timeout=20)
    assert (imported.placed, imported.out_of_stock) == (2, 1)


def test_cancelling_removes_only_the_callers_own_orders(shop: Shop) -> None:
    bob = shop.bearer("bob")
    for customer in (shop.alice, bob):
        shop.orders.CancelOrders(orders_pb2.CancelOrdersRequest(), metadata=customer, timeout=20)
        shop.orders.PlaceOrder(orders_pb2.PlaceOrderRequest(sku="tea", quantity=1), metadata=customer, timeout=20)
    cancelled = shop.orders.CancelOrders(orders_pb2.CancelOrdersRequest(), metadata=shop.alice, timeout=20)
    assert cancelled.cancelled == 1
    again = shop.orders.CancelOrders(orders_pb2.CancelOrdersRequest(), metadata=shop.alice, timeout=20)
    assert again.cancelled == 0


def test_every_question_of_a_chat_is_answered(shop: Shop) -> None:
    asked = ["", "Is there any tea?", "a samovar"]
    questions = (storefront_pb2.ChatRequest(text=text) for text in asked)
    answers = [answer.text for answer in shop.storefront.Chat(questions, metadata=shop.alice, timeout=20)]
    assert answers[0] == "What can I do for you, alice?"
    assert answers[1].endswith(" of tea, alice.")
    assert answers[2].startswith("I am sorry, alice: there is no 'samovar'")
    too_long = iter([storefront_pb2.ChatRequest(text="?" * 1025)])
    with pytest.raises(grpc.RpcError) as refused:
        list(shop.storefront.Chat(too_long, metadata=shop.alice, timeout=20))
    assert status_of(refused.value)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_watcher_gets_the_changes_that_others_cause(shop: Shop) -> None:
    stream = shop.inventory.WatchStock(inventory_pb2.WatchStockRequest(sku="cups"), metadata=shop.alice, timeout=60)
    left = next(stream).left
    shop.storefront.Buy(storefront_pb2.BuyRequest(sku="cups", quantity=7), metadata=shop.bearer("bob"), timeout=20)
    assert next(stream).left == left - 7
    stream.cancel()


def test_the_audit_line_of_a_refusal_does_not_contain_the_credential(shop: Shop) -> None:
    secret = shop.alice[0][1] + "x"
    with pytest.raises(grpc.RpcError):
        shop.inventory.GetStock(inventory_pb2.GetStockRequest(), metadata=(("authorization", secret),), timeout=20)
    log = shop.mesh.folder / "logs" / "inventory.log"
    wait_until(lambda: "CREDENTIAL_" in log.read_text(), what="the refusal is in the log")
    assert secret.removeprefix("Bearer ") not in log.read_text()
